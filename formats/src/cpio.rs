//! Reads cpio archives of the "newc" format in place.
//!
//! The format is Linux's initramfs buffer format (Documentation/driver-api/early-userspace/
//! buffer-format.rst): archives one after another, with zero bytes between them.

use core::fmt;

const HEADER: usize = 110;
const FIELDS: usize = 13;
const TRAILER: &[u8] = b"TRAILER!!!";

/// One member of an archive. Name and data lie in the archive itself.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The inode and device numbers: members that share them are hard links of one file.
    pub identity: (u32, u32, u32),
    /// File type and permissions, as in `st_mode`.
    pub mode: u32,
    /// How many names the file has.
    pub links: u32,
    /// When it was last changed, in seconds since 1970.
    pub modified: u32,
    /// The path, without a leading slash.
    pub name: &'a [u8],
    /// The contents; for a symbolic link, where it points.
    pub data: &'a [u8],
}

/// What is wrong with an archive, and at which byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CpioError {
    /// There is no archive.
    Empty,
    /// The archive ends inside the member that starts here.
    Truncated(usize),
    /// Here a member should start, and does not.
    BadMagic(usize),
    /// A header field of the member that starts here is no hexadecimal number.
    BadField(usize),
    /// The name of the member that starts here is empty or not terminated.
    BadName(usize),
}

impl fmt::Display for CpioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "there is none, so there is nothing to run; give a cpio archive with -initrd"),
            Self::Truncated(at) => write!(f, "the cpio archive ends inside the member at byte {at}"),
            Self::BadMagic(at) => {
                write!(f, "no cpio member at byte {at}: only uncompressed archives of format newc are read")
            }
            Self::BadField(at) => write!(f, "the cpio member at byte {at} has a field that is no hexadecimal number"),
            Self::BadName(at) => write!(f, "the cpio member at byte {at} has a bad name"),
        }
    }
}

/// The members of one or more archives, in order. Ends after the first error.
pub struct Entries<'a> {
    archive: &'a [u8],
    at: usize,
}

/// Starts reading.
pub fn entries(archive: &[u8]) -> Entries<'_> {
    Entries { archive, at: 0 }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, CpioError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let padding = self.archive.get(self.at..)?.iter().take_while(|&&byte| byte == 0).count();
            self.at += padding;
            if self.at >= self.archive.len() {
                return None;
            }
            match read_member(self.archive, self.at) {
                Ok((entry, next)) => {
                    self.at = next;
                    if entry.name != TRAILER {
                        return Some(Ok(entry));
                    }
                }
                Err(error) => {
                    self.at = self.archive.len();
                    return Some(Err(error));
                }
            }
        }
    }
}

/// Reads the member that starts at `at`, and says where the next one starts.
fn read_member(archive: &[u8], at: usize) -> Result<(Entry<'_>, usize), CpioError> {
    let rest = &archive[at..];
    if !b"070701".starts_with(&rest[..rest.len().min(6)]) && !b"070702".starts_with(&rest[..rest.len().min(6)]) {
        return Err(CpioError::BadMagic(at));
    }
    let header = rest.get(..HEADER).ok_or(CpioError::Truncated(at))?;
    let mut fields = [0; FIELDS];
    for (field, digits) in fields.iter_mut().zip(header[6..].chunks_exact(8)) {
        *field = hexadecimal(digits).ok_or(CpioError::BadField(at))?;
    }
    let [inode, mode, _uid, _gid, links, modified, size, major, minor, _, _, name_size, _check] = fields;
    let name_end = HEADER + name_size as usize;
    let data_start = name_end.next_multiple_of(4);
    let data_end = data_start + size as usize;
    let name = rest.get(HEADER..name_end).ok_or(CpioError::Truncated(at))?;
    let data = rest.get(data_start..data_end).ok_or(CpioError::Truncated(at))?;
    // It ends at the first zero. More zeroes are padding, with which an archiver puts the contents at the start of a
    // page; nobody looks through them.
    let name = match name.iter().position(|&byte| byte == 0) {
        Some(end @ 1..) if name.ends_with(b"\0") => &name[..end],
        _ => return Err(CpioError::BadName(at)),
    };
    let entry = Entry { identity: (inode, major, minor), mode, links, modified, name, data };
    Ok((entry, at + data_end.next_multiple_of(4)))
}

fn hexadecimal(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0u32, |value, &digit| Some(value << 4 | (digit as char).to_digit(16)?))
}
