//! What is printed.

use crate::memory::Memory;
use crate::results::{Difference, Differences, Passes};
use microseq::{Attention, Plan};

/// The backward pass has five products of the size of the forward's two.
const BACKWARD_FLOPS: f64 = 2.5;

/// The steps, a line each, and their sum. `layers` is how often each step ran.
pub(crate) fn steps(plan: &Plan<'_>, attention: &Attention, layers: usize, times: &[Passes]) {
    println!(
        "{:>4} {:>7} {:>10} {:>21} {:>17} {:>15} {:>11} {:>8} {:>12} {:>8}",
        "step",
        "rows",
        "documents",
        "first_document_begin",
        "window",
        "visible pairs",
        "forward ms",
        "GFLOP/s",
        "backward ms",
        "GFLOP/s"
    );
    let (mut pairs, mut time) = (0, Passes::default());
    for (step, passes) in plan.steps().zip(times) {
        let step_pairs = step.pairs(attention.mask());
        let window = format!("{}..{}", step.window().start, step.window().end);
        let (rows, documents, begin) = (step.rows().len(), step.documents(), step.first_document_begin());
        print!("{:>4} {rows:>7} {documents:>10} {begin:>21} {window:>17} ", step.index());
        println!("{}", speed(step_pairs, attention, layers, passes));
        pairs += step_pairs;
        time.forward += passes.forward;
        time.backward += passes.backward;
    }
    println!("{:>4} {:>7} {:>50} {}", "all", plan.tokens(), "", speed(pairs, attention, layers, &time));
    println!("Pairs are those of one head; times are for the attention of all heads and layers.");
}

fn speed(pairs: u64, attention: &Attention, layers: usize, passes: &Passes) -> String {
    let flops = layers as f64 * forward_flops(pairs, attention);
    let [forward, backward] = [passes.forward, passes.backward].map(|time| time.as_secs_f64());
    format!(
        "{:>15} {:>11.1} {:>8.0} {:>12.1} {:>8.0}",
        thousands(pairs),
        forward * 1e3,
        rate(flops, forward),
        backward * 1e3,
        rate(BACKWARD_FLOPS * flops, backward)
    )
}

/// GFLOP/s.
fn rate(flops: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { flops / seconds / 1e9 } else { 0.0 }
}

fn forward_flops(pairs: u64, attention: &Attention) -> f64 {
    4.0 * pairs as f64 * (attention.heads() * attention.head_dim()) as f64
}

/// Which results have the same bits as those of the unsplit pass, and how far the others are.
pub(crate) fn check(differences: &Differences, unsplit: Passes) {
    println!(
        "Check against one unsplit pass ({:.1} ms forward, {:.1} ms backward):",
        unsplit.forward.as_secs_f64() * 1e3,
        unsplit.backward.as_secs_f64() * 1e3
    );
    let Differences { out, lse, dq, dkv } = differences;
    for (name, difference) in [("out", out), ("lse", lse), ("dq", dq), ("dkv", dkv)] {
        println!("  {name:<4} {}", verdict(difference));
    }
}

fn verdict(difference: &Difference) -> String {
    let elements = thousands(difference.elements as u64);
    if difference.bit_identical() {
        return format!("bit-identical ({elements} elements)");
    }
    format!(
        "{} of {elements} elements differ: by {:.1e} at most, relative rms {:.1e}",
        thousands(difference.differing as u64),
        difference.max_abs,
        difference.relative_rms()
    )
}

/// The slots beside concatenation.
pub(crate) fn memory(memory: &Memory) {
    let line = |what, slot, concatenated| println!("  {what:<10} {slot:>12} {concatenated:>28}");
    println!("Memory of keys, values and their gradients, all layers, on each rank:");
    line("", "one slot".into(), "concatenated for each step".into());
    line("K/V", size(memory.slot_kv), size(memory.concatenated_kv));
    line("gradients", size(memory.slot_gradients), size(memory.concatenated_gradients));
    println!(
        "Concatenating saves a window of K/V for each step's backward. Its gradients, at the worst step, are"
    );
    println!("that step's window and what later steps left behind, in the element type; the slot's are f32.");
}

/// Bytes in a readable unit.
fn size(bytes: usize) -> String {
    match bytes {
        0..0x400 => format!("{bytes} B"),
        0x400..0x10_0000 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1024.0 / 1024.0),
    }
}

/// 1234567 as "1,234,567".
pub(crate) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
