//! Bring-up, common to the image and to every test kernel: from boot.s to `kernel_main`.

use core::arch::asm;
use core::fmt::Display;

use mm::{Config, Scheme};
use spin::once::Once;

use crate::arch::boot::BootInfo;
use crate::arch::stack::{self, KernelStack};
use crate::arch::{cpu, jumps, mmu};
use crate::drivers::{bcm_gpio, gic, power, uart};
use crate::percpu::{self, PerCpu};
use crate::sync::Relax;
use crate::{cmdline, console, heartbeat, ipi, machine, memory, platform, println, sched, smp, sync, trace, watchdog};

unsafe extern "Rust" {
    /// What the kernel is for: the image's `main.rs`, or a test kernel's list of tests.
    safe fn kernel_main(boot: &'static BootInfo) -> !;
}

static BOOT: Once<BootInfo, Relax> = Once::new();

/// The boot CPU, on the boot stack, with boot.s's map.
pub(crate) extern "C" fn start_primary(device_tree_pa: u64, image_pa: u64, entry_level: u64) -> ! {
    mmu::init(image_pa);
    percpu::init_boot_cpu(cpu::mpidr(), stack::boot_stack_top());
    // SAFETY: boot.s calls this with what it found.
    let boot = BOOT.call_once(|| unsafe { BootInfo::new(device_tree_pa, image_pa, entry_level) });
    bcm_gpio::light_early(boot.image_pa.start);
    uart::init_early(boot.image_pa.start);
    println!("Lazuli: entered at EL{}, image at {:#x}", boot.entry_level, boot.image_pa.start);
    // One that firmware left behind ends the boot, but not without a word.
    cpu::unmask_serrors();
    let Some(tree) = boot.device_tree else {
        refuse("the loader passed no device tree in x0, and the image brings none")
    };
    let platform = platform::init(tree).unwrap_or_else(|error| refuse(error));
    uart::init();
    power::init();
    cmdline::line().check().unwrap_or_else(|error| refuse(error));
    memory::init(boot, platform);
    add_bundled_line(boot);
    if cmdline::get("frames").is_some() {
        console::begin_frames();
    }
    percpu::init_others(platform.cpus());
    trace::init();
    let frames = memory::frame_allocator(&platform.ram);
    let config = mm_config();
    jumps::write(&jumps::answers(&config, trace::is_wanted()));
    mmu::seal_image();
    machine::init(config, frames).unwrap_or_else(|error| refuse(error));
    machine::leave_identity_map();
    let top = KernelStack::new().expect("no memory for the first stack").leak();
    // SAFETY: the new stack is mapped and nobody's; nothing on the old one, which from now on is where this CPU reports
    // an overflow, is needed again.
    unsafe { start_on_stack(top, start_cpus, boot) }
}

/// Lets the command line inside the image count too.
fn add_bundled_line(boot: &BootInfo) {
    if let Some(bundle) = &boot.bundle {
        let line = bundle.command_line().unwrap_or_else(|| refuse("the bundled command line is no text"));
        cmdline::Line(line).check().unwrap_or_else(|error| refuse(error));
        cmdline::add_bundled(line);
    }
}

/// What the command line chooses for the mm layer, and where it is silent the features of this build.
fn mm_config() -> Config {
    let mut config = Config::default();
    if cfg!(feature = "mmu-lazy-tlb-shootdown") {
        config.scheme = Scheme::Shootdown;
    }
    config.check = cfg!(all(feature = "debug-vm-shoot-lazies", debug_assertions));
    for (option, value) in cmdline::line().options() {
        config.set(option, value).unwrap_or_else(|error| refuse(error));
    }
    config
}

/// Ends a boot that cannot succeed, for a reason that whoever started it can mend. Not a panic: the kernel is well.
pub fn refuse(why: impl Display) -> ! {
    println!("cannot boot: {why}");
    power::exit(1)
}

/// Leaves the running stack for one that ends at `top`, and goes on there.
///
/// # Safety
///
/// The stack is mapped and empty, and nothing on the running one is needed again.
unsafe fn start_on_stack<T>(top: u64, main: unsafe extern "C" fn(&'static T) -> !, argument: &'static T) -> ! {
    // SAFETY: our caller's promise.
    unsafe {
        asm!(
            "mov sp, {top}",
            "mov x29, xzr",
            "mov x30, xzr",
            "br {main}",
            top = in(reg) top,
            main = in(reg) main,
            in("x0") argument,
            options(noreturn),
        );
    }
}

/// Interrupts and the other CPUs, then whatever this kernel is for.
extern "C" fn start_cpus(boot: &'static BootInfo) -> ! {
    gic::init();
    ipi::init(|_| sched::on_reschedule());
    sched::init();
    sched::join_cpu();
    watchdog::init();
    watchdog::init_cpu();
    smp::go_online();
    uart::enable_input();
    sync::begin_contention();
    sync::unmask_irqs();
    smp::start_secondaries();
    sched::reaper::start();
    heartbeat::start();
    let platform = platform::get();
    let ram: u64 = platform.ram.iter().map(|ram| ram.len).sum();
    println!("{}: {} MiB, {} of {} CPUs", platform.model, ram >> 20, ipi::online().count(), percpu::count());
    kernel_main(boot)
}

/// Another CPU, on its own stack, with the kernel's map.
///
/// # Safety
///
/// Called by boot.s or [`restart_secondary`], with this CPU's area.
pub(crate) unsafe extern "C" fn start_secondary(area: &'static PerCpu) -> ! {
    // SAFETY: our caller's promise.
    unsafe { percpu::init_secondary_cpu(area) };
    machine::leave_identity_map();
    smp::secondary_main()
}

/// Makes this CPU, whose interrupts are masked and which runs nothing, what it was when it first started.
pub(crate) fn restart_secondary() -> ! {
    let this = percpu::this();
    // SAFETY: the CPU's first stack, which it runs on; but this is the last function on it, and it never returns.
    unsafe { start_on_stack(this.stack_top, start_secondary, this) }
}
