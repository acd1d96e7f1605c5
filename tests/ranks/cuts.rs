//! Where documents begin beside ranks' shares, and shares of unequal size.

use crate::common::ranked::{CUTS, Packed};
use crate::group::{each_rank, harness, join};
use microseq::cpu::Isa;
use microseq::dev::cases;
use microseq::{Attention, Element, bf16};
use std::collections::BTreeSet;

#[test]
fn documents_begin_anywhere_in_f32() {
    documents_begin_anywhere::<f32>();
}

#[test]
fn documents_begin_anywhere_in_bf16() {
    documents_begin_anywhere::<bf16>();
}

fn documents_begin_anywhere<E: Element>() {
    let attention = Attention::new(4, 2, 16).unwrap();
    for (seed, (name, lengths, tokens, micro)) in CUTS.into_iter().enumerate() {
        let packed = Packed::<E>::random(name, attention, lengths, tokens, seed as u64);
        for ranks in 1..=4 {
            check(&packed, micro, ranks);
        }
    }
}

/// The cases above are of the kinds that they are there for.
#[test]
fn the_cuts_are_of_every_kind() {
    let mut kinds = BTreeSet::new();
    for (_, lengths, tokens, micro) in CUTS {
        let plan = microseq::Plan::padded(lengths, tokens, micro).unwrap();
        for (step, ranks) in plan.steps().flat_map(|step| (2..=4).map(move |ranks| (step, ranks))) {
            for share in step.shares(ranks).unwrap() {
                let begin = share.first_document_begin();
                kinds.insert(match () {
                    () if share.rows().is_empty() => "no rows",
                    () if share.documents() == 0 => "padding",
                    () if begin < step.begin() => "begins before the step",
                    () if begin < share.begin() => "begins in the step, before the share",
                    () if share.documents() > 1 => "another begins inside of the share",
                    () => "begins with the share",
                });
                if step.rows().len() % ranks != 0 {
                    kinds.insert("unequal shares");
                }
            }
        }
    }
    assert_eq!(kinds.len(), 7, "{kinds:?}");
}

/// The sequences of the conformance suite, on as many ranks as they say.
#[test]
fn sequences_of_the_suite() {
    let mut shared = 0;
    for case in cases::sequences() {
        let packed = Packed::<f32>::random(&case.name, case.attention, &case.lengths, case.tokens, case.seed);
        check(&packed, case.micro_sequence_length, case.ranks);
        shared += usize::from(case.ranks > 1);
    }
    assert!(shared > 10, "{shared} cases on several ranks");
}

fn check<E: Element>(packed: &Packed<E>, micro: usize, ranks: usize) {
    let harness = harness(Isa::best());
    let expected = packed.expected(&harness, micro, ranks);
    let outcomes = each_rank(ranks, |seat| {
        let mut rank = join(seat, &packed.agreement(micro, ranks)).unwrap();
        packed.ranked(&harness, &mut rank, micro).unwrap()
    });
    for (rank, outcome) in outcomes.iter().enumerate() {
        packed.check_rank((rank, ranks), micro, outcome, &expected, true);
    }
}
