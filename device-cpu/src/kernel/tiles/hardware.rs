//! The tile registers of AMX.
//!
//! Their instructions are written out, since the compiler has no stable names for them. No register holds
//! anything from one block of instructions to the next: each reads a product's sums from memory and writes
//! them back, and names all tile registers as overwritten.
//!
//! What lasts from `begin` to `end` is the registers' configuration, which no block of instructions can
//! name. The x86-64 ABI leaves it to functions to change it; but code that was compiled without AMX, as
//! all of this crate is, does not, and nothing else is called in between but the standard library's
//! copying of memory and a yield to other threads. The operating system keeps it for each thread.

use super::Product;
use super::TileUnit;
use core::arch::asm;
use core::mem::{offset_of, size_of};

/// AMX-TILE and AMX-BF16.
pub(crate) struct Hardware;

/// What LDTILECFG reads: palette 1, and for each of eight registers sixteen rows of 64 bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIGURATION: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

const _: () = assert!(size_of::<Configuration>() == 64);

impl TileUnit for Hardware {
    #[inline(always)]
    unsafe fn begin() {
        // SAFETY: the machine has the registers and the configuration is a legal one, which is read only;
        // the registers, which this zeroes, are named.
        unsafe {
            asm!(
                "ldtilecfg [{}]",
                in(reg) &raw const CONFIGURATION,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly, preserves_flags)
            );
        }
    }

    #[inline(always)]
    unsafe fn end() {
        // SAFETY: the machine has the registers, which are named; nothing else changes. Not `nomem`, so
        // that it stays behind the products.
        unsafe {
            asm!(
                "tilerelease",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags)
            );
        }
    }

    // Registers 0 and 1 hold the sums of the upper rows, 2 and 3 those of the lower, 1 and 3 those of the
    // right columns; 4 and 5 rows, 6 and 7 columns.
    #[inline(always)]
    unsafe fn multiply<const TWO_ROWS: bool, const TWO_COLUMNS: bool>(product: &Product) {
        // SAFETY: the registers are configured, since the caller is between `begin` and `end`; every
        // register that is written is named; the caller's pointers reach what is read through `product`,
        // which is only read itself, and written, which is the sums alone. All 16 rows of 64 bytes of a
        // tile are reached through its stride; loops end when `steps` of them are done, and are not entered
        // where that is 0.
        unsafe {
            asm!(
                "mov {upper}, [{product} + {UPPER}]",
                "mov {lower}, [{product} + {LOWER}]",
                "mov {stride}, [{product} + {ROW_STRIDE}]",
                "mov {left}, [{product} + {LEFT}]",
                "mov {right}, [{product} + {RIGHT}]",
                "mov {steps}, [{product} + {STEPS}]",
                "mov {line}, 64",
                // Sums so far, or none.
                "mov {sums}, [{product} + {BEFORE}]",
                "mov {sums_stride}, [{product} + {BEFORE_STRIDE}]",
                "test {sums}, {sums}",
                "jz 2f",
                "tileloadd tmm0, [{sums} + {sums_stride}*1]",
                ".if {TWO_COLUMNS}",
                "tileloadd tmm1, [{sums} + {sums_stride}*1 + 64]",
                ".endif",
                ".if {TWO_ROWS}",
                "mov {below}, {sums_stride}",
                "shl {below}, 4",
                "add {below}, {sums}",
                "tileloadd tmm2, [{below} + {sums_stride}*1]",
                ".if {TWO_COLUMNS}",
                "tileloadd tmm3, [{below} + {sums_stride}*1 + 64]",
                ".endif",
                ".endif",
                "jmp 3f",
                "2:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "3:",
                "test {steps}, {steps}",
                "jz 5f",
                "4:",
                "tileloadd tmm4, [{upper} + {stride}*1]",
                "tileloadd tmm6, [{left} + {line}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                ".if {TWO_COLUMNS}",
                "tileloadd tmm7, [{right} + {line}*1]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                ".endif",
                ".if {TWO_ROWS}",
                "tileloadd tmm5, [{lower} + {stride}*1]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                ".if {TWO_COLUMNS}",
                "tdpbf16ps tmm3, tmm5, tmm7",
                ".endif",
                ".endif",
                "add {upper}, [{product} + {ROWS_STEP}]",
                "add {lower}, [{product} + {ROWS_STEP}]",
                "add {left}, [{product} + {COLUMNS_STEP}]",
                "add {right}, [{product} + {COLUMNS_STEP}]",
                "dec {steps}",
                "jnz 4b",
                "5:",
                "mov {sums}, [{product} + {TO}]",
                "mov {sums_stride}, [{product} + {TO_STRIDE}]",
                "tilestored [{sums} + {sums_stride}*1], tmm0",
                ".if {TWO_COLUMNS}",
                "tilestored [{sums} + {sums_stride}*1 + 64], tmm1",
                ".endif",
                ".if {TWO_ROWS}",
                "mov {below}, {sums_stride}",
                "shl {below}, 4",
                "add {below}, {sums}",
                "tilestored [{below} + {sums_stride}*1], tmm2",
                ".if {TWO_COLUMNS}",
                "tilestored [{below} + {sums_stride}*1 + 64], tmm3",
                ".endif",
                ".endif",
                product = in(reg) &raw const *product,
                upper = out(reg) _, lower = out(reg) _, stride = out(reg) _,
                left = out(reg) _, right = out(reg) _, line = out(reg) _,
                steps = out(reg) _, sums = out(reg) _, sums_stride = out(reg) _, below = out(reg) _,
                TWO_ROWS = const TWO_ROWS as u8,
                TWO_COLUMNS = const TWO_COLUMNS as u8,
                UPPER = const offset_of!(Product, rows.first),
                LOWER = const offset_of!(Product, rows.second),
                ROWS_STEP = const offset_of!(Product, rows.step),
                ROW_STRIDE = const offset_of!(Product, row_stride),
                LEFT = const offset_of!(Product, columns.first),
                RIGHT = const offset_of!(Product, columns.second),
                COLUMNS_STEP = const offset_of!(Product, columns.step),
                STEPS = const offset_of!(Product, steps),
                BEFORE = const offset_of!(Product, before),
                BEFORE_STRIDE = const offset_of!(Product, before_stride),
                TO = const offset_of!(Product, to),
                TO_STRIDE = const offset_of!(Product, to_stride),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack)
            );
        }
    }
}
