//! Sequences too long for a look at every token: what must hold of them all.

use crate::transcription::{Rows, describe};
use microseq_core::{Mask, Plan, PlanError};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// Lengths, rows of padding, and a step length.
fn plans() -> impl Strategy<Value = (Vec<u32>, usize, usize)> {
    let length = prop_oneof![Just(0), 1..4u32, 1..300u32, 1..3000u32];
    (prop::collection::vec(length, 0..60), prop_oneof![Just(0), 0..700usize], 1..5000usize)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::with_cases(200) })]

    #[test]
    fn steps_are_as_defined((lengths, padding, micro_sequence_length) in plans(), picked in any::<prop::sample::Index>(), ranks in 1..9usize) {
        let tokens = lengths.iter().sum::<u32>() as usize + padding;
        let plan = Plan::padded(&lengths, tokens, micro_sequence_length).unwrap();
        prop_assume!(tokens > 0);
        let rows = Rows::new(&lengths, tokens);
        let index = picked.index(plan.steps().len());
        let step = plan.steps().nth(index).unwrap();
        prop_assert_eq!(describe(&step), rows.describe(step.rows()));
        let share = step.share(picked.index(ranks), ranks).unwrap();
        prop_assert_eq!(describe(&share), rows.describe(share.rows()));
    }

    #[test]
    fn a_cut_loses_no_pair((lengths, padding, micro_sequence_length) in plans(), window in 1..4000usize, ranks in 1..9usize) {
        let tokens = lengths.iter().sum::<u32>() as usize + padding;
        let plan = Plan::padded(&lengths, tokens, micro_sequence_length).unwrap();
        for mask in [Mask::CAUSAL, Mask { causal: true, window: window.try_into().ok() }] {
            let whole: u64 = lengths.iter().map(|&length| mask.pairs(length as usize, length as usize)).sum();
            let steps: u64 = plan.steps().map(|step| step.pairs(mask)).sum();
            let share = |rank| move |step: microseq_core::Step<'_>| step.share(rank, ranks).unwrap().pairs(mask);
            let shares: u64 = (0..ranks).map(|rank| plan.steps().map(share(rank)).sum::<u64>()).sum();
            prop_assert_eq!((steps, shares), (whole, whole));
        }
    }

    #[test]
    fn steps_are_the_same_from_both_ends((lengths, padding, micro_sequence_length) in plans(), ends in prop::collection::vec(any::<bool>(), 0..400)) {
        let tokens = lengths.iter().sum::<u32>() as usize + padding;
        let plan = Plan::padded(&lengths, tokens, micro_sequence_length).unwrap();
        let forward: Vec<_> = plan.steps().collect();
        let mut steps = plan.steps();
        let (mut front, mut back) = (vec![], vec![]);
        for from_front in ends {
            if from_front { front.extend(steps.next()) } else { back.extend(steps.next_back()) }
        }
        prop_assert_eq!(steps.len() + front.len() + back.len(), forward.len());
        front.extend(steps);
        front.extend(back.into_iter().rev());
        prop_assert_eq!(front, forward);
    }
}

/// A million documents of all lengths from 0 to 7. With a cost of steps times documents this would
/// not end.
#[test]
fn a_million_documents_in_many_steps() {
    let lengths: Vec<u32> = (0..1_000_000u32).map(|n| n.wrapping_mul(2_654_435_761) >> 29).collect();
    let tokens: usize = lengths.iter().map(|&length| length as usize).sum();
    let plan = Plan::new(&lengths, 17).unwrap();
    assert_eq!(plan.tokens(), tokens);
    assert!(plan.steps().len() > 200_000);

    let whole: u64 = lengths.iter().map(|&n| u64::from(n) * (u64::from(n) + 1) / 2).sum();
    let forward: u64 = plan.steps().map(|step| step.pairs(Mask::CAUSAL)).sum();
    let backward: u64 = plan.steps().rev().map(|step| step.pairs(Mask::CAUSAL)).sum();
    assert_eq!((forward, backward), (whole, whole));
    // A document is in as many steps as it has rows in, at most one more for each cut.
    let documents = lengths.iter().filter(|&&length| length > 0).count();
    let touched: usize = plan.steps().map(|step| step.documents()).sum();
    assert!(touched >= documents && touched <= documents + plan.steps().len());
}

/// A million empty documents between two others: steps that touch none of them pass over them once.
#[test]
fn a_million_empty_documents() {
    let mut lengths = vec![0; 1_000_000];
    (lengths[0], lengths[999_999]) = (100_000, 100_000);
    let plan = Plan::new(&lengths, 1).unwrap();
    assert!(plan.steps().all(|step| step.documents() == 1));
    assert!(plan.steps().rev().all(|step| step.documents() == 1));
}

#[test]
fn the_longest_sequence_there_is() {
    const LONGEST: u32 = i32::MAX as u32;
    let plan = Plan::new(&[LONGEST - 10, 10], LONGEST as usize).unwrap();
    let step = plan.steps().next().unwrap();
    let (mut q, mut k) = ([0; 3], [0; 3]);
    let cu_seqlens = step.cu_seqlens(&mut q, &mut k).unwrap();
    assert_eq!(cu_seqlens.q, [0, i32::MAX - 10, i32::MAX]);
    assert_eq!(cu_seqlens.k, cu_seqlens.q);
    let n = u64::from(LONGEST - 10);
    assert_eq!(step.pairs(Mask::CAUSAL), n * (n + 1) / 2 + 55);
    assert_eq!(step.pairs(Mask::FULL), n * n + 100);
}

#[test]
fn lengths_whose_sum_overflows_are_refused() {
    let error = Plan::new(&[u32::MAX; 5], 1).unwrap_err();
    assert!(matches!(error, PlanError::TooManyTokens { tokens, .. } if tokens == 5 * u32::MAX as usize));
    let error = Plan::padded(&[], usize::MAX, usize::MAX).unwrap_err();
    assert!(matches!(error, PlanError::TooManyTokens { tokens: usize::MAX, .. }));
}
