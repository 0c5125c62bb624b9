//! Deterministic cpio archives ("newc") for the initramfs.
//!
//! Same files in, same bytes out: entries are sorted, times and owners are zero, inode numbers count up.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

const DIRECTORY: u32 = 0o040_755;
const SYMLINK: u32 = 0o120_777;
const FILE: u32 = 0o100_644;
const EXECUTABLE: u32 = 0o100_755;
/// The bytes of a member's header.
const HEADER: usize = 110;
/// What larger files are aligned to.
const PAGE: usize = 4096;
/// The most bytes of a name, its zero included, that Linux reads (init/initramfs.c).
const PATH_MAX: usize = 4096;
/// The name that ends every cpio archive.
const TRAILER: &str = "TRAILER!!!";

struct Node {
    mode: u32,
    data: Vec<u8>,
}

/// The files of an archive, by path without a leading slash.
#[derive(Default)]
pub(crate) struct Archive {
    nodes: BTreeMap<String, Node>,
}

impl Archive {
    /// Adds what `spec` names: `source=target` puts one file or folder at `target`, a bare folder becomes the root.
    pub(crate) fn add(&mut self, spec: &str) -> Result<()> {
        match spec.split_once('=') {
            Some((source, target)) => self.add_path(Path::new(source), target),
            None if Path::new(spec).is_dir() => self.add_path(Path::new(spec), ""),
            None => bail!("`{spec}` is not a folder; give a file as SOURCE=TARGET, such as {spec}=/bin/name"),
        }
    }

    /// Adds one executable file with the given content.
    pub(crate) fn add_program(&mut self, target: &str, data: Vec<u8>) {
        self.insert(target, EXECUTABLE, data);
    }

    /// The archive as bytes, ready for `-initrd`.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (index, (path, node)) in self.nodes.iter().enumerate() {
            push_entry(&mut out, index + 1, path, node.mode, &node.data);
        }
        push_entry(&mut out, 0, TRAILER, 0, &[]);
        // Block-sized, as other writers leave it, so that archives can be appended to one another.
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }

    fn add_path(&mut self, source: &Path, target: &str) -> Result<()> {
        let context = || format!("cannot read {}", source.display());
        let meta = fs::symlink_metadata(source).with_context(context)?;
        if meta.is_symlink() {
            let link = fs::read_link(source).with_context(context)?;
            self.insert(target, SYMLINK, link.to_string_lossy().into_owned().into_bytes());
        } else if meta.is_dir() {
            self.insert(target, DIRECTORY, Vec::new());
            for entry in fs::read_dir(source).with_context(context)? {
                let entry = entry.with_context(context)?;
                let name = entry.file_name();
                let name = name.to_str().with_context(|| format!("{name:?} is not UTF-8"))?;
                self.add_path(&entry.path(), &format!("{target}/{name}"))?;
            }
        } else {
            let executable = meta.permissions().mode() & 0o111 != 0;
            let mode = if executable { EXECUTABLE } else { FILE };
            self.insert(target, mode, fs::read(source).with_context(context)?);
        }
        Ok(())
    }

    fn insert(&mut self, target: &str, mode: u32, data: Vec<u8>) {
        let path = target.trim_matches('/');
        if path.is_empty() {
            return;
        }
        // A reader that creates files as it meets them needs every parent first. Sorting puts `a` before `a/b`.
        for (end, _) in path.match_indices('/') {
            let parent = Node { mode: DIRECTORY, data: Vec::new() };
            self.nodes.entry(path[..end].to_owned()).or_insert(parent);
        }
        self.nodes.insert(path.to_owned(), Node { mode, data });
    }
}

fn push_entry(out: &mut Vec<u8>, inode: usize, path: &str, mode: u32, data: &[u8]) {
    let links = if mode == DIRECTORY { 2 } else { 1 };
    let name_size = name_size(out.len(), path, data.len());
    let (data_at, size) = ((out.len() + HEADER + name_size).next_multiple_of(4), data.len());
    // inode mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    let header = format!(
        "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{links:08x}{0:08x}{size:08x}{0:08x}{0:08x}{0:08x}{0:08x}{name_size:08x}{0:08x}",
        0
    );
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(path.as_bytes());
    out.resize(data_at, 0);
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// The bytes of a member's name, its zero included. A file of a page or more gets more zeroes, as many as it takes to let its
/// contents begin on a page: there a kernel can map them where they lie. Readers take a name to its first zero; Linux
/// refuses one longer than a path may be.
fn name_size(start: usize, path: &str, size: usize) -> usize {
    let (end, plain) = (start + HEADER + path.len() + 1, path.len() + 1);
    let padded = plain + end.next_multiple_of(PAGE) - end;
    if size >= PAGE && padded <= PATH_MAX { padded } else { plain }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an archive back by the rules of cpio(5), independently of the writer.
    fn read(mut archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&archive[..6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&archive[6 + 8 * n..14 + 8 * n]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let name = std::str::from_utf8(&archive[110..110 + name_size]).unwrap().trim_end_matches('\0').to_owned();
            assert!(
                name.len() < name_size && name_size <= 4096,
                "{name}: a zero ends it, and it is no longer than a path"
            );
            if name == "TRAILER!!!" {
                return entries;
            }
            let data = (110 + name_size).next_multiple_of(4);
            entries.push((name, mode, archive[data..data + size].to_vec()));
            archive = &archive[(data + size).next_multiple_of(4)..];
        }
    }

    fn sample() -> Archive {
        let mut archive = Archive::default();
        archive.add_program("/bin/b", b"12345".to_vec());
        archive.add_program("bin/a", b"x".to_vec());
        archive.insert("etc/link", SYMLINK, b"../bin/a".to_vec());
        archive
    }

    #[test]
    fn reads_back_sorted_with_parents_first() {
        let entries = read(&sample().bytes());
        let seen: Vec<_> = entries.iter().map(|(n, m, d)| (n.as_str(), *m, d.as_slice())).collect();
        let expected: Vec<(&str, u32, &[u8])> = vec![
            ("bin", 0o40755, b""),
            ("bin/a", 0o100755, b"x"),
            ("bin/b", 0o100755, b"12345"),
            ("etc", 0o40755, b""),
            ("etc/link", 0o120777, b"../bin/a"),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_file_of_a_page_or_more_begins_on_a_page() {
        let mut archive = sample();
        let large: Vec<_> = (0..9u8).map(|n| vec![0x80 | n; 4096 + usize::from(n) * 1000]).collect();
        for (n, data) in large.iter().enumerate() {
            archive.insert(&format!("large/{n}"), FILE, data.clone());
        }
        let bytes = archive.bytes();
        for data in &large {
            let at = bytes.windows(data.len()).position(|window| window == data).unwrap();
            assert_eq!(at % 4096, 0);
        }
        let read_back = read(&bytes).into_iter().filter(|(name, ..)| name.starts_with("large/"));
        assert_eq!(read_back.map(|(.., data)| data).collect::<Vec<_>>(), large);
        let start = PAGE - HEADER - 6;
        assert_eq!(name_size(start, "a", PAGE), 6);
        assert_eq!(name_size(start, "a", PAGE - 1), 2, "too small to matter");
        assert_eq!(name_size(start, "longer", PAGE), 7, "it would become longer than a path");
    }

    #[test]
    fn order_of_adding_does_not_show() {
        let mut other = Archive::default();
        other.insert("etc/link", SYMLINK, b"../bin/a".to_vec());
        other.add_program("bin/a", b"x".to_vec());
        other.add_program("/bin/b", b"12345".to_vec());
        assert_eq!(other.bytes(), sample().bytes());
    }

    #[test]
    fn copies_a_folder_with_modes_and_links() {
        let dir = std::env::temp_dir().join(format!("lazuli-cpio-{}", std::process::id()));
        fs::create_dir_all(dir.join("sub")).unwrap();
        fs::write(dir.join("sub/text"), "hello").unwrap();
        fs::write(dir.join("run"), "#!").unwrap();
        fs::set_permissions(dir.join("run"), fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink("run", dir.join("alias")).unwrap();
        let mut archive = Archive::default();
        archive.add(dir.to_str().unwrap()).unwrap();
        archive.add(&format!("{}=/deep/er", dir.join("run").display())).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        let seen: Vec<_> = read(&archive.bytes()).into_iter().map(|(n, m, _)| (n, m)).collect();
        let expected = [
            ("alias", 0o120777),
            ("deep", 0o40755),
            ("deep/er", 0o100755),
            ("run", 0o100755),
            ("sub", 0o40755),
            ("sub/text", 0o100644),
        ];
        assert_eq!(seen, expected.map(|(n, m)| (n.to_owned(), m)));
    }

    #[test]
    fn says_what_to_do_with_a_bare_file() {
        let error = Archive::default().add("no/such/file").unwrap_err().to_string();
        assert!(error.contains("SOURCE=TARGET"), "{error}");
    }
}
