//! Sequences on the processes' ranks, against one rank.

use crate::common::golden::micro_sequence_lengths;
use crate::common::ranked::{CUTS, Packed, sequences};
use crate::common::safetensors::Numbers;
use crate::{Process, harness};
use microseq::{Attention, DType, Element, Problem, bf16, f16};

/// How many sequences were right.
pub(crate) fn all(process: &Process) -> usize {
    let mut checked = 0;
    for (name, dtype) in sequences() {
        checked += match dtype {
            DType::F32 => golden::<f32>(process, &name),
            DType::F16 => golden::<f16>(process, &name),
            DType::Bf16 => golden::<bf16>(process, &name),
        };
    }
    assert!(checked >= 24, "{checked} golden sequences");
    checked + cuts::<f32>(process) + cuts::<bf16>(process)
}

fn golden<E: Numbers>(process: &Process, name: &str) -> usize {
    let packed = Packed::<E>::golden(name);
    let micros = micro_sequence_lengths(packed.tokens, &packed.attention);
    for &micro in &micros {
        if process.size == 1 || packed.attention.mask().causal {
            check(process, &packed, micro);
        } else {
            refused(process, &packed, micro);
        }
    }
    micros.len()
}

fn cuts<E: Element>(process: &Process) -> usize {
    let attention = Attention::new(4, 2, 16).unwrap();
    for (seed, (name, lengths, tokens, micro)) in CUTS.into_iter().enumerate() {
        check(process, &Packed::<E>::random(name, attention, lengths, tokens, seed as u64), micro);
    }
    CUTS.len()
}

fn check<E: Element>(process: &Process, packed: &Packed<E>, micro: usize) {
    let Process { rank, size, .. } = *process;
    let expected = packed.expected(&harness(), micro, size);
    let mut group = process.group(&packed.agreement(micro, size)).unwrap();
    let outcome = packed.ranked(&harness(), &mut group, micro).unwrap();
    packed.check_rank((rank, size), micro, &outcome, &expected, true);
}

/// Non-causal attention whose documents are cut by the shares is refused when it is planned, on some
/// rank; so it is found before any rank moves anything.
fn refused<E: Element>(process: &Process, packed: &Packed<E>, micro: usize) {
    let planned = |rank| {
        let step = packed.plan(micro).steps().next().unwrap();
        Problem::new(packed.attention, step.share(rank, process.size).unwrap(), E::DTYPE).is_ok()
    };
    assert!(!(0..process.size).all(planned), "{}", packed.name);
}
