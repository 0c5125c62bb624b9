//! Links the firmware at a fixed address: it stands where a loader puts it and never moves.

fn main() {
    let root = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    println!("cargo::rerun-if-changed=src/firmware.ld");
    println!("cargo::rustc-link-arg=-T{root}/src/firmware.ld");
}
