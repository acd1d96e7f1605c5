//! The model against float64, and the machine's tiles, where there are any, against the model.

use super::product::{Pair, bytes};
use super::{Hardware, Model, Product, SIDE, TileUnit};
use crate::isa::tiles::available;
use microseq_core::bf16;
use microseq_core::dev::Random;
use std::println;
use std::vec::Vec;

/// Words from a row of a tile to the next in memory, for rows; columns lie side by side.
const STRIDE: usize = 21;

/// A tile's words of two random bf16.
fn words(seed: u64) -> Vec<f32> {
    words_of(seed, SIDE * STRIDE)
}

/// So many words of two random bf16.
fn words_of(seed: u64, count: usize) -> Vec<f32> {
    let elements: Vec<bf16> = Random::new(seed).elements(2 * count);
    let word =
        |pair: &[bf16]| f32::from_bits(u32::from(pair[0].to_bits()) | u32::from(pair[1].to_bits()) << 16);
    elements.chunks_exact(2).map(word).collect()
}

/// A tile's sums `c` plus the products of `a` and `b`, by the unit.
///
/// # Safety
/// The machine has the unit.
unsafe fn product<U: TileUnit>(a: &[f32], b: &[f32], c: &[f32]) -> Vec<f32> {
    let mut sums = c.to_vec();
    let product = Product {
        rows: Pair::new(a.as_ptr(), 0, 0),
        row_stride: bytes(STRIDE),
        columns: Pair::new(b.as_ptr(), 0, 0),
        steps: 1,
        before: c.as_ptr(),
        before_stride: bytes(STRIDE),
        to: sums.as_mut_ptr(),
        to_stride: bytes(STRIDE),
    };
    // SAFETY: the machine has the unit; all hold a tile.
    unsafe {
        U::begin();
        U::multiply::<false, false>(&product);
        U::end();
    }
    sums
}

/// Four tiles, or fewer, over some steps, of operands that do not lie side by side.
///
/// # Safety
/// The machine has the unit.
unsafe fn products<U: TileUnit, const TWO_ROWS: bool, const TWO_COLUMNS: bool>(
    operands: &[f32],
    steps: usize,
    fresh: bool,
    reversed: bool,
) -> Vec<f32> {
    const TILE: usize = SIDE * STRIDE;
    const WIDTH: usize = 2 * SIDE + 3;
    let mut sums: Vec<f32> = (0..2 * SIDE * WIDTH).map(|i| i as f32).collect();
    let before = sums.clone();
    let (rows, columns) = operands.split_at(operands.len() / 2);
    let pair = |from: &[f32]| Pair::new(from.as_ptr(), STEPS * TILE, TILE);
    let order = |pair: Pair| if reversed { pair.reversed(steps) } else { pair };
    let product = Product {
        rows: order(pair(rows)),
        row_stride: bytes(STRIDE),
        columns: order(pair(columns)),
        steps,
        before: if fresh { core::ptr::null() } else { before.as_ptr() },
        before_stride: bytes(WIDTH),
        to: sums.as_mut_ptr(),
        to_stride: bytes(WIDTH),
    };
    // SAFETY: the machine has the unit; the operands hold two tiles a step, the sums four.
    unsafe {
        U::begin();
        U::multiply::<TWO_ROWS, TWO_COLUMNS>(&product);
        U::end();
    }
    sums
}

/// The most steps of [`products`].
const STEPS: usize = 3;

#[test]
fn model_multiplies_words_of_rows_with_words_of_columns() {
    let (a, b, c) = (words(1), words(2), Random::new(3).elements::<f32>(SIDE * STRIDE));
    // SAFETY: the model needs nothing.
    let given = unsafe { product::<Model>(&a, &b, &c) };
    let half = |word: f32, half: u32| f64::from(f32::from_bits(word.to_bits() >> (16 * half) << 16));
    for m in 0..SIDE {
        for n in 0..STRIDE {
            let place = m * STRIDE + n;
            if n >= SIDE {
                assert_eq!(given[place].to_bits(), c[place].to_bits(), "nothing is written beside a tile");
                continue;
            }
            let product = |k: usize, h: u32| half(a[m * STRIDE + k], h) * half(b[k * SIDE + n], h);
            let sum: f64 = (0..SIDE).map(|k| product(k, 0) + product(k, 1)).sum();
            let exact = f64::from(c[place]) + sum;
            assert!((f64::from(given[place]) - exact).abs() < 1e-5, "{m}, {n}: {} {exact}", given[place]);
        }
    }
}

#[test]
fn model_takes_numbers_below_the_normal_ones_for_0() {
    let (mut a, mut b, mut c) = ([0.0f32; SIDE * STRIDE], [0.0f32; SIDE * STRIDE], [0.0f32; SIDE * STRIDE]);
    // 1 * 2^-130 is below, and so is what is there; 2^-70 * 2^-70 becomes as small.
    (a[0], b[0], c[0]) = (f32::from_bits(0x3f80), f32::from_bits(0x0008), f32::from_bits(1));
    (a[STRIDE + 1], b[SIDE + 1]) = (f32::from_bits(0x1c80), f32::from_bits(0x1c80));
    // SAFETY: the model needs nothing.
    let given = unsafe { product::<Model>(&a, &b, &c) };
    assert!(given.iter().all(|&x| x == 0.0), "{given:?}");
}

#[test]
fn model_takes_steps_in_their_order() {
    let operands = words_of(5, 4 * STEPS * SIDE * STRIDE);
    // SAFETY: the model needs nothing.
    let run = |steps, reversed| unsafe { products::<Model, true, true>(&operands, steps, false, reversed) };
    assert_eq!(bits(&run(1, false)), bits(&run(1, true)));
    assert_ne!(bits(&run(3, false)), bits(&run(3, true)), "sums are rounded in another order");
    let untouched = run(0, false);
    assert!(untouched.iter().enumerate().all(|(i, &sum)| sum == i as f32), "no step adds nothing");
}

#[test]
fn machine_does_what_the_model_does() {
    if !available() {
        println!("amxbf16 NOT RUN: this machine has no tiles");
        return;
    }
    for seed in 0..50 {
        let (a, b, c) = (words(seed), words(seed + 100), Random::new(seed).elements::<f32>(SIDE * STRIDE));
        // SAFETY: the machine has tiles.
        let (given, expected) = unsafe { (product::<Hardware>(&a, &b, &c), product::<Model>(&a, &b, &c)) };
        assert_eq!(bits(&given), bits(&expected), "seed {seed}");
    }
}

#[test]
fn machine_takes_tiles_as_the_model_does() {
    if !available() {
        println!("amxbf16 NOT RUN: this machine has no tiles");
        return;
    }
    same_products::<false, false>();
    same_products::<false, true>();
    same_products::<true, false>();
    same_products::<true, true>();
}

/// Machine and model agree on so many tiles, fresh or not, in both orders, over every number of steps.
fn same_products<const TWO_ROWS: bool, const TWO_COLUMNS: bool>() {
    let operands = words_of(5, 4 * STEPS * SIDE * STRIDE);
    for (steps, fresh, reversed) in
        (0..=STEPS).flat_map(|n| [(n, true, false), (n, false, false), (n, false, true)])
    {
        // SAFETY: the machine has tiles.
        let given = unsafe { products::<Hardware, TWO_ROWS, TWO_COLUMNS>(&operands, steps, fresh, reversed) };
        // SAFETY: the model needs nothing.
        let expected = unsafe { products::<Model, TWO_ROWS, TWO_COLUMNS>(&operands, steps, fresh, reversed) };
        let what = std::format!("{TWO_ROWS}, {TWO_COLUMNS}, {steps} steps, {fresh}, {reversed}");
        assert_eq!(bits(&given), bits(&expected), "{what}");
    }
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

/// The whole device, but for the instructions themselves, on tiles.
#[test]
fn kernels_on_the_model_conform() {
    use microseq_core::dev::{HostHarness, conformance};
    if !crate::Isa::AmxBf16.available() {
        println!("amxbf16 NOT RUN on the model: this machine has no AVX512-BF16");
        return;
    }
    let threads = if cfg!(feature = "rayon") { 2 } else { 1 };
    let cpu = crate::Cpu::with_threads(threads).and_then(|cpu| cpu.with_isa(crate::Isa::AmxBf16));
    let grain = |dtype| Some(if dtype == microseq_core::DType::Bf16 { 32 } else { 1 });
    conformance::all(&HostHarness::new(cpu.expect("threads and isa")).with_dkv_grain(grain));
}
