//! Jumps that boot writes into the code: where a hot path asks what the options chose, one instruction knows.
//!
//! The place that asks is a `nop` if what follows is the answer, else a `b` to the code for it: nothing is loaded and
//! nothing is compared. The build leaves a `brk` there, so a question that boot did not answer stops the kernel and says
//! where. A record of each place and each answer lies in `.rodata.jumps`, by distances, since the image may lie anywhere.
//!
//! Written once, before another CPU starts and before any of it runs (decisions/0002); the linear map lets boot write to
//! the text until [`mmu::seal_image`].

use core::arch::asm;
use core::slice;

use mm::{Config, Departure, Entry};

use super::{mmu, tlbi};

/// The number in the `brk`: this place has no answer yet.
pub const UNANSWERED: u16 = 0xa5c;

const NOP: u32 = 0xd503_201f;
const BRK: u32 = 0xd420_0000 | (UNANSWERED as u32) << 5;
/// `b` to itself; a distance in instructions goes into its low 26 bits.
const B: u32 = 0x1400_0000;

/// What a place may ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
enum Question {
    Entry,
    Departure,
    Record,
}

/// Whether to record what happens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Record {
    No,
    Yes,
}

/// The number of the answer to each question.
pub type Answers = [u16; 3];

/// What these options answer.
pub fn answers(config: &Config, record: bool) -> Answers {
    let record = if record { Record::Yes } else { Record::No };
    // In the order of `Question`.
    [Entry::of(config.scheme) as u16, Departure::of(config) as u16, record as u16]
}

/// One place that asks, and where one of the answers leads.
#[derive(Debug)]
#[repr(C)]
pub struct Jump {
    /// From this field to the place.
    place: i32,
    /// From this field to where the answer leads.
    target: i32,
    question: u16,
    answer: u16,
}

/// Asks: one instruction, which goes on to the first answer or jumps to another.
macro_rules! ask {
    ($question:ident: $first:ident $($other:ident)*) => {{
        // SAFETY: boot writes a `nop` or a jump to one of the labels; neither touches a register or memory.
        unsafe {
            asm!(
                "2: brk {unanswered}",
                ".pushsection .rodata.jumps, \"a\"",
                ".balign 4",
                ".long 2b - ., 2b + 4 - .",
                ".hword {question}, {first}",
                $(concat!(".long 2b - ., {} - . // ", stringify!($other)), ".hword {question}, {}",)*
                ".popsection",
                $(label { return $question::$other }, const $question::$other as u16,)*
                question = const Question::$question as u16,
                first = const $question::$first as u16,
                unanswered = const UNANSWERED,
                options(nomem, nostack, preserves_flags),
            );
        }
        $question::$first
    }};
}

/// What a CPU does that becomes lazy.
#[inline(always)]
pub fn entry() -> Entry {
    // What takes most comes first: it need not jump back, and the others jump over it.
    ask!(Entry: Count Stay Leave)
}

/// What a CPU does with its slot when it leaves an `Mm`.
#[inline(always)]
pub fn departure() -> Departure {
    ask!(Departure: Publish PublishAndTrim TrimAndPublish Drain NoteEpoch)
}

/// Whether to record what happens.
#[inline(always)]
pub fn records() -> bool {
    ask_record() == Record::Yes
}

#[inline(always)]
fn ask_record() -> Record {
    ask!(Record: No Yes)
}

impl Jump {
    /// The address of the instruction that asks.
    pub fn place(&self) -> u64 {
        (&raw const self.place as u64).wrapping_add_signed(self.place.into())
    }

    /// Whether it leads to the answer.
    pub fn is_chosen(&self, answers: &Answers) -> bool {
        answers[usize::from(self.question)] == self.answer
    }

    /// Whether the place goes there.
    pub fn stands(&self) -> bool {
        // SAFETY: an instruction of ours, which the kernel may read.
        unsafe { (self.place() as *const u32).read_volatile() == self.instruction() }
    }

    /// The instruction that makes the place go there.
    fn instruction(&self) -> u32 {
        let target = (&raw const self.target as u64).wrapping_add_signed(self.target.into());
        match (target.wrapping_sub(self.place()) as i64) >> 2 {
            1 => NOP,
            distance => B | distance as u32 & 0x03ff_ffff,
        }
    }
}

/// Every jump that could be.
pub fn all() -> &'static [Jump] {
    unsafe extern "C" {
        static __jumps_start: Jump;
        static __jumps_end: Jump;
    }
    let (start, end) = (&raw const __jumps_start, &raw const __jumps_end);
    // SAFETY: kernel.ld puts the records of `ask!` between the two, and nothing else; they never change.
    unsafe { slice::from_raw_parts(start, end.offset_from_unsigned(start)) }
}

/// Answers every question. CPU 0 calls it, alone.
pub(crate) fn write(answers: &Answers) {
    for jump in all().iter().filter(|jump| jump.is_chosen(answers)) {
        let place = mmu::phys_to_virt(mmu::virt_to_phys(jump.place())).cast::<u32>();
        // SAFETY: an instruction of ours that nothing has run yet, where the linear map lets boot write to it.
        unsafe {
            assert_eq!(place.read_volatile(), BRK, "{:#x} has an answer already", jump.place());
            place.write_volatile(jump.instruction());
        }
        tlbi::sync_instructions(place as u64..place as u64 + 4);
    }
}
