//! Nasty values.

use std::io;

use crate::random::Random;
use crate::sys::memory::{Mapping, PAGE};

/// Paths to try. None of them blocks when read, and none shows on the console.
const PATHS: [&[u8]; 16] = [
    b"/dev/null\0",
    b"/dev/zero\0",
    b"/proc/self/maps\0",
    b"/proc/cpuinfo\0",
    b"/proc/lazy_tlb\0",
    b"/proc/self/exe\0",
    b"/proc/self/exe\0",
    b"/\0",
    b"/bin\0",
    b"/bin/../bin/./\0",
    b"/tmp/file\0",
    b"/tmp/folder\0",
    b"/tmp/folder/file\0",
    b"no-such-file\0",
    b"/dev/null/x\0",
    b"\0",
];

/// The argument by which this program, executed by its own children, makes a few more calls.
pub const NESTED: &str = "--nested";

/// An array of strings as `execve` reads it.
#[repr(transparent)]
struct Arguments([*const u8; 3]);

// SAFETY: the pointers are to constants, which nobody writes.
unsafe impl Sync for Arguments {}

static ARGUMENTS: [Arguments; 3] = [
    Arguments([c"fuzz".as_ptr().cast(), c"--nested".as_ptr().cast(), std::ptr::null()]),
    Arguments([c"".as_ptr().cast(), std::ptr::null(), std::ptr::null()]),
    Arguments([std::ptr::null(); 3]),
];

/// What `rt_sigaction` reads on AArch64 (Linux include/linux/signal_types.h): handler, flags, restorer, mask.
struct Action([u64; 4]);

/// `SA_…` of which handlers get a random choice.
const ACTION_FLAGS: [i32; 6] = [
    0,
    libc::SA_RESTART,
    libc::SA_NODEFER,
    libc::SA_ONSTACK | libc::SA_SIGINFO,
    libc::SA_RESETHAND,
    libc::SA_NOCLDWAIT | libc::SA_NOCLDSTOP,
];

/// A handler that returns.
extern "C" fn nothing(_: i32) {}

/// A source of arguments, with memory and descriptors that calls can do harm to.
pub(super) struct Values {
    pub(super) random: Random,
    /// The address of the scratch memory, which stays until the process ends.
    scratch: u64,
    own_pid: u64,
    action: Box<Action>,
}

/// Pages of scratch memory. The last may not be touched.
const SCRATCH_PAGES: usize = 5;
/// Pages behind it that are there to be mapped over.
const AREA_PAGES: usize = 64;

impl Values {
    /// Sets the child up: quiet standard descriptors, a pipe that never blocks, scratch memory.
    pub(super) fn prepare(random: Random) -> io::Result<Self> {
        let scratch = Mapping::private((SCRATCH_PAGES + AREA_PAGES) * PAGE)?.start();
        // SAFETY: descriptors and memory of this child, which nobody else uses.
        unsafe {
            libc::mprotect(scratch.add((SCRATCH_PAGES - 1) * PAGE).cast(), PAGE, libc::PROT_NONE);
            let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
            (0..3).for_each(|standard| {
                libc::dup3(null, standard, 0);
            });
            libc::pipe2([0i32; 2].as_mut_ptr(), libc::O_NONBLOCK);
            libc::open(c"/dev/zero".as_ptr(), libc::O_RDWR);
            libc::open(c"/".as_ptr(), libc::O_RDONLY);
            libc::open(c"/tmp/file".as_ptr(), libc::O_RDWR | libc::O_CREAT, 0o666);
        }
        Ok(Self::over(scratch as u64, random))
    }

    fn over(scratch: u64, random: Random) -> Self {
        Self { random, scratch, own_pid: std::process::id().into(), action: Box::new(Action([0; 4])) }
    }

    /// Another source over the same memory, for a thread that does harm at the same time.
    pub(super) fn another(&self, random: Random) -> Self {
        Self::over(self.scratch, random)
    }

    /// An address: good, at a page's end, unaligned, unmapped, the kernel's, or worse.
    pub(super) fn pointer(&mut self) -> u64 {
        let page = self.scratch + self.random.below(SCRATCH_PAGES as u64) * PAGE as u64;
        match self.random.below(10) {
            0..=3 => page + self.random.below(64) * 8,
            4 => page + self.random.below(PAGE as u64),
            5 => page + PAGE as u64 - self.random.below(40),
            6 => self.random.pick(&[0, 1, 8, 0xfff, 0x1000, 0xdead_b000, (1 << 48) - 8, 1 << 48, (1 << 48) - 4096]),
            7 => 0xffff_0000_0000_0000 | self.random.number(),
            8 => self.random.pick(&[
                0xffff_8000_0000_0000,
                0xffff_ffff_ffff_f000,
                !0,
                !7,
                1 << 63,
                0xff00_0000_0000_1000,
            ]),
            _ => self.random.number(),
        }
    }

    /// An address that no call can use.
    pub(super) fn bad_pointer(&mut self) -> u64 {
        self.random.pick(&[1, 8, 0xfff, 1 << 48, 0xffff_8000_0000_0000, !0, 1 << 63])
    }

    /// A length or a count.
    pub(super) fn length(&mut self) -> u64 {
        match self.random.below(8) {
            0..=2 => self.random.below(100),
            3 => self.random.below(5 * PAGE as u64),
            4 => PAGE as u64 * self.random.below(9),
            5 => self.random.pick(&[0, 1, 8, 1024, 1025, 0x7fff_ffff, 0x7fff_f000, 0x8000_0000, 0xffff_ffff]),
            6 => self.random.pick(&[!0, !0 - 4095, 1 << 63, 1 << 47, 1 << 48, i64::MAX as u64]),
            _ => self.random.number() >> self.random.below(64),
        }
    }

    pub(super) fn descriptor(&mut self) -> u64 {
        match self.random.below(8) {
            0..=5 => self.random.below(12),
            6 => self.random.pick(&[63, 255, 256, 1023, 1024, 0x7fff_ffff, libc::AT_FDCWD as u64]),
            _ => self.random.pick(&[!0, 0xffff_ffff, 1 << 31, 1 << 32]),
        }
    }

    /// Flags and small numbers: few bits, many bits, or a count.
    pub(super) fn flags(&mut self) -> u64 {
        match self.random.below(4) {
            0 => self.random.below(16),
            1 => (1 << self.random.below(32)) | (1 << self.random.below(32)),
            2 => 0,
            _ => self.random.number() >> self.random.below(64),
        }
    }

    pub(super) fn path(&mut self) -> u64 {
        if self.random.one_in(4) { self.pointer() } else { self.random.pick(&PATHS).as_ptr() as u64 }
    }

    /// The first page of something: in what is there to be mapped over, in the scratch memory, or anywhere.
    pub(super) fn area(&mut self) -> u64 {
        let pages = (SCRATCH_PAGES + AREA_PAGES) as u64;
        match self.random.below(8) {
            0 => 0,
            1 => self.pointer() & !(PAGE as u64 - 1),
            2 => self.pointer(),
            _ => self.scratch + self.random.below(pages) * PAGE as u64,
        }
    }

    /// `MAP_…`: mostly what means something.
    pub(super) fn mapping(&mut self) -> u64 {
        let kind =
            self.random.pick(&[libc::MAP_PRIVATE, libc::MAP_PRIVATE, libc::MAP_SHARED, libc::MAP_SHARED_VALIDATE, 0]);
        let source = if self.random.one_in(4) { 0 } else { libc::MAP_ANONYMOUS };
        let place = self.random.pick(&[0, libc::MAP_FIXED, libc::MAP_FIXED, libc::MAP_FIXED_NOREPLACE]);
        let odd =
            self.random.pick(&[0, 0, libc::MAP_GROWSDOWN, libc::MAP_POPULATE, libc::MAP_HUGETLB, libc::MAP_STACK]);
        (kind | source | place | odd) as u64
    }

    /// `CLONE_…`: a fork, a thread, what lies between, and what means nothing.
    pub(super) fn clone_flags(&mut self) -> u64 {
        let thread = libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
        let kind = self.random.pick(&[0, libc::CLONE_VM, libc::CLONE_VM | libc::CLONE_VFORK, thread, thread]);
        let told =
            self.random.pick(&[0, libc::CLONE_PARENT_SETTID, libc::CLONE_CHILD_SETTID, libc::CLONE_CHILD_CLEARTID]);
        let odd = if self.random.one_in(4) { self.flags() } else { 0 };
        let signal = self.random.pick(&[0, libc::SIGCHLD, libc::SIGCHLD, 64, 65]);
        (kind | told | signal) as u32 as u64 | odd
    }

    /// `FUTEX_…`: an operation, and who sees it.
    pub(super) fn futex(&mut self) -> u64 {
        self.random.below(14) | self.random.pick(&[0, 128, 128, 256, 384])
    }

    /// The address of an array of strings.
    pub(super) fn strings(&mut self) -> u64 {
        let which = self.random.below(ARGUMENTS.len() as u64 + 1) as usize;
        ARGUMENTS.get(which).map_or_else(|| self.pointer(), |strings| strings.0.as_ptr() as u64)
    }

    /// The address of what shall be done about a signal.
    pub(super) fn action(&mut self) -> u64 {
        let handler = self.random.pick(&[0, 1, nothing as *const () as u64, nothing as *const () as u64, self.scratch]);
        let flags = self.random.pick(&ACTION_FLAGS) as u32;
        let mask = if self.random.one_in(2) { 0 } else { self.random.number() };
        self.action.0 = [handler, flags.into(), 0, mask];
        self.action.0.as_ptr() as u64
    }

    /// This process or none: others are not ours to harm.
    pub(super) fn process(&mut self) -> u64 {
        self.random.pick(&[self.own_pid, 0x3f_ffff, 0x7fff_ffff])
    }

    /// Any signal but those that stop: nobody would let the child go on.
    pub(super) fn signal(&mut self) -> u64 {
        let signal = self.random.below(65);
        let signal = self.random.pick(&[signal, 0, 65, !0, 1 << 32]);
        if (libc::SIGSTOP as u64..=libc::SIGTTOU as u64).contains(&signal) { 0 } else { signal }
    }

    /// Anything at all.
    pub(super) fn any(&mut self) -> u64 {
        match self.random.below(4) {
            0 => self.pointer(),
            1 => self.length(),
            2 => self.descriptor(),
            _ => self.flags(),
        }
    }
}
