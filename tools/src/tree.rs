//! Device trees as text: compiled by dtc, and changed by what is written behind them.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// The blob of a tree's source. Later definitions of a node add to earlier ones.
pub(crate) fn compile(source: &str) -> Result<Vec<u8>> {
    dtc(&["-I", "dts", "-O", "dtb"], source.as_bytes())
}

/// The source of a blob.
pub(crate) fn decompile(blob: &[u8]) -> Result<String> {
    String::from_utf8(dtc(&["-I", "dtb", "-O", "dts"], blob)?).context("dtc wrote no text")
}

/// The source in a file.
pub(crate) fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The source with a range of memory reserved, and definitions behind it.
pub(crate) fn extend(source: &str, (base, len): (u64, u64), definitions: &str) -> Result<String> {
    let (head, rest) = source.split_once("/dts-v1/;").context("the tree does not begin with /dts-v1/;")?;
    Ok(format!("{head}/dts-v1/;\n/memreserve/ {base:#x} {len:#x};{rest}\n{definitions}"))
}

/// A number as two cells.
pub(crate) fn cells(number: u64) -> String {
    format!("{:#x} {:#x}", number >> 32, number & 0xffff_ffff)
}

fn dtc(form: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    let mut command = Command::new("dtc");
    // QEMU's own trees draw warnings of style.
    command.arg("-q").args(form).arg("-");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start dtc; run `make setup`")?;
    let mut stdin = child.stdin.take().context("dtc has no input")?;
    // It reads all of its input before it writes.
    stdin.write_all(input).context("dtc does not read its input")?;
    drop(stdin);
    let output = child.wait_with_output().context("cannot wait for dtc")?;
    ensure!(output.status.success(), "dtc: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_behind_a_tree_changes_it() {
        let source = "/dts-v1/;\n/ { model = \"a\"; node { x = <1>; }; };\n";
        let extended = extend(source, (0x1000, 0x2000), "/ { model = \"b\"; node { y = <2>; }; };").unwrap();
        let text = decompile(&compile(&extended).unwrap()).unwrap();
        for part in ["model = \"b\"", "x = <0x01>", "y = <0x02>", "/memreserve/\t0x0000000000001000 0x0000000000002000"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn faults_are_told() {
        assert!(compile("/dts-v1/; / { x = ; };").unwrap_err().to_string().contains("dtc: "));
        assert!(extend("/ {};", (0, 0), "").is_err());
    }
}
