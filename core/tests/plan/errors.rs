//! What cannot be planned, and what cannot be had of a step.

use microseq_core::{Plan, PlanError, StepError};

#[test]
fn steps_of_no_rows_are_refused() {
    assert_eq!(Plan::new(&[3], 0), Err(PlanError::ZeroMicroSequenceLength));
}

#[test]
fn documents_that_do_not_fit_are_refused() {
    let error = PlanError::DocumentsExceedTokens { tokens: 8, document: 2, document_end: 11 };
    assert_eq!(Plan::padded(&[3, 5, 3, 1], 8, 4), Err(error));
}

#[test]
fn sequences_beyond_32_bits_are_refused() {
    let tokens = i32::MAX as usize + 1;
    let error = PlanError::TooManyTokens { tokens, limit: i32::MAX as usize };
    assert_eq!(Plan::new(&[i32::MAX as u32, 1], 4), Err(error));
    assert_eq!(Plan::padded(&[], tokens, 4), Err(error));
}

#[test]
fn short_buffers_are_refused_and_left_alone() {
    let step = Plan::new(&[1, 1, 1], 3).unwrap().steps().next().unwrap();
    let (mut three, mut four) = ([-1; 3], [-1; 4]);
    let error = StepError::CuSeqlensQTooShort { expected: 4, given: 3 };
    assert_eq!(step.cu_seqlens(&mut three, &mut four), Err(error));
    let error = StepError::CuSeqlensKTooShort { expected: 4, given: 3 };
    assert_eq!(step.cu_seqlens(&mut four, &mut three), Err(error));
    assert_eq!((three, four), ([-1; 3], [-1; 4]));
}

#[test]
fn longer_buffers_are_left_alone_behind_the_entries() {
    let step = Plan::new(&[2], 3).unwrap().steps().next().unwrap();
    let (mut q, mut k) = ([-1; 4], [-1; 3]);
    step.cu_seqlens(&mut q, &mut k).unwrap();
    assert_eq!((q, k), ([0, 2, -1, -1], [0, 2, -1]));
}

#[test]
fn shares_of_no_ranks_are_refused() {
    let step = Plan::new(&[2], 3).unwrap().steps().next().unwrap();
    assert_eq!(step.share(0, 0), Err(StepError::ZeroRanks));
}

#[test]
fn ranks_outside_their_group_are_refused() {
    let step = Plan::new(&[2], 3).unwrap().steps().next().unwrap();
    assert_eq!(step.share(2, 2), Err(StepError::RankOutOfRange { rank: 2, ranks: 2 }));
    assert_eq!(step.share(0, usize::MAX).map(|share| share.rows()), Ok(0..0));
}
