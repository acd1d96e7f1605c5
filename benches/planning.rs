//! What a plan costs: checking the lengths and cutting all steps, forward and in reverse, with every
//! step's documents, pairs and canonical `cu_seqlens`.
//!
//! It must grow with the documents and steps touched, never with tokens squared or steps times
//! documents: a million tokens take around a millisecond.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use microseq::{Mask, Plan};
use std::hint::black_box;

/// Documents of three lengths in turn, so many in all.
fn lengths(documents: usize, mean: u32) -> Vec<u32> {
    (0..documents as u32).map(|n| mean - 5 + n % 3 * 5).collect()
}

fn planning(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("planning");
    for (name, documents, mean, steps) in [
        ("1M tokens, 100k documents, 256 steps", 100_000, 10, 256),
        ("10M tokens, 1M documents, 256 steps", 1_000_000, 10, 256),
        ("1M tokens, 10 documents, 256 steps", 10, 100_000, 256),
        ("1M tokens, 100k documents, 10k steps", 100_000, 10, 10_000),
    ] {
        let lengths = lengths(documents, mean);
        let tokens: usize = lengths.iter().map(|&length| length as usize).sum();
        let micro_sequence_length = tokens.div_ceil(steps);
        group.throughput(Throughput::Elements(documents as u64));
        let plan = || Plan::new(black_box(&lengths), micro_sequence_length).expect("sound lengths");
        group.bench_function(BenchmarkId::new("steps", name), |bencher| {
            bencher.iter(|| plan().steps().map(|step| step.window().len()).sum::<usize>());
        });
        group.bench_function(BenchmarkId::new("steps in reverse", name), |bencher| {
            bencher.iter(|| plan().steps().rev().map(|step| step.window().len()).sum::<usize>());
        });
        let (mut q, mut k) = (vec![0; documents + 1], vec![0; documents + 1]);
        group.bench_function(BenchmarkId::new("steps, pairs and cu_seqlens", name), |bencher| {
            bencher.iter(|| {
                let pairs = plan().steps().map(|step| {
                    black_box(step.cu_seqlens(&mut q, &mut k).expect("room for all documents"));
                    step.pairs(Mask::CAUSAL)
                });
                pairs.sum::<u64>()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, planning);
criterion_main!(benches);
