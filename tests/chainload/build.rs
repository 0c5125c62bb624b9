//! Links the loader where the board's firmware puts a kernel.

fn main() {
    let root = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    println!("cargo::rerun-if-changed=src/chainload.ld");
    println!("cargo::rustc-link-arg=-T{root}/src/chainload.ld");
}
