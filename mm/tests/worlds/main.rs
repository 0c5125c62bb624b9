//! Small worlds, explored to the last state: every scheme, with everything that the architecture leaves open.

mod arena;
mod explore;
mod report;
mod snapshot;
mod worlds;

#[global_allocator]
static ARENA: arena::Arena = arena::Arena;
