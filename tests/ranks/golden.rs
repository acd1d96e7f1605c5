//! Every golden case on 1 to 4 ranks.

use crate::common::cpus;
use crate::common::golden::micro_sequence_lengths;
use crate::common::ranked::{Packed, sequences};
use crate::common::safetensors::Numbers;
use crate::group::{each_rank, harness, join};
use microseq::cpu::Isa;
use microseq::dev::run::{RankedError, RunError, together};
use microseq::{DType, ProblemError, bf16, f16};

#[test]
fn golden_cases_on_one_to_four_ranks() {
    let mut cases = 0;
    for (name, dtype) in sequences() {
        for isa in cpus::isas() {
            match dtype {
                DType::F32 => case::<f32>(&name, isa),
                DType::F16 => case::<f16>(&name, isa),
                DType::Bf16 => case::<bf16>(&name, isa),
            }
        }
        cases += 1;
    }
    assert_eq!(cases, 9, "all cases in the sequence form");
}

fn case<E: Numbers>(name: &str, isa: Isa) {
    let packed = Packed::<E>::golden(name);
    for micro in micro_sequence_lengths(packed.tokens, &packed.attention) {
        for ranks in 1..=4 {
            if ranks == 1 || packed.attention.mask().causal {
                shared_out(&packed, isa, micro, ranks);
            } else {
                refused(&packed, isa, micro, ranks);
            }
        }
    }
}

fn shared_out<E: Numbers>(packed: &Packed<E>, isa: Isa, micro: usize, ranks: usize) {
    let expected = packed.expected(&harness(isa), micro, ranks);
    let outcomes = each_rank(ranks, |seat| {
        let mut rank = join(seat, &packed.agreement(micro, ranks)).unwrap();
        packed.ranked(&harness(isa), &mut rank, micro).unwrap()
    });
    for (rank, outcome) in outcomes.iter().enumerate() {
        packed.check_rank((rank, ranks), micro, outcome, &expected, true);
    }
    let whole = together(&packed.sequence(micro), &outcomes);
    assert!(whole.out == expected.single.out, "the ranks' rows are all rows");
}

/// A share that ends inside of a document does not see the keys behind it.
fn refused<E: Numbers>(packed: &Packed<E>, isa: Isa, micro: usize, ranks: usize) {
    let outcomes = each_rank(ranks, |seat| {
        let mut rank = join(seat, &packed.agreement(micro, ranks)).unwrap();
        packed.ranked(&harness(isa), &mut rank, micro).map(|_| ())
    });
    let future = |error: &_| {
        matches!(error, Err(RankedError::Run(RunError::Problem(ProblemError::FutureKeys { .. }))))
    };
    assert!(outcomes.iter().any(future), "{} on {ranks} ranks: {outcomes:?}", packed.name);
}
