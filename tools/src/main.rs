//! Host tools of Lazuli.

fn main() {}
