//! Says hello: the smallest program that proves the whole path.

fn main() {
    println!("hello from EL0");
}
