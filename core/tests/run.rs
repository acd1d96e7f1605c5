//! The drivers: what they refuse, and what they do not hide.
#![cfg(feature = "dev")]

use microseq_core::dev::run::{Options, RunError, Sequence, VarlenBatch, sequence, varlen};
use microseq_core::dev::{HostHarness, Random, Reference};
use microseq_core::{Attention, Plan, ProblemError, ShapeError, StepError, Varlen};

type Error = RunError<ShapeError>;

fn operator() -> Attention {
    Attention::new(2, 1, 4).unwrap()
}

fn elements(n: usize) -> Vec<f32> {
    Random::new(1).elements(n)
}

/// Runs 6 rows in steps of 4 over inputs of these sizes.
fn run(q: usize, kv: usize, dout: Option<usize>, ranks: usize) -> Result<(), Error> {
    let (q, kv, dout) = (elements(q), elements(kv), dout.map(elements));
    let plan = Plan::new(&[4, 2], 4).unwrap();
    let inputs = Sequence { plan, attention: operator(), q: &q, kv: &kv, dout: dout.as_deref() };
    sequence(&HostHarness::new(Reference), &inputs, Options { ranks, ..Options::default() }).map(|_| ())
}

#[test]
fn inputs_of_wrong_sizes_are_refused() {
    assert_eq!(run(48, 48, Some(48), 1), Ok(()));
    assert_eq!(run(47, 48, None, 1), Err(Error::Elements { input: "q", expected: 48, given: 47 }));
    assert_eq!(run(48, 56, None, 1), Err(Error::Elements { input: "kv", expected: 48, given: 56 }));
    assert_eq!(run(48, 48, Some(8), 1), Err(Error::Elements { input: "dout", expected: 48, given: 8 }));
}

#[test]
fn no_ranks_are_refused() {
    assert_eq!(run(48, 48, None, 0), Err(Error::Step(StepError::ZeroRanks)));
}

#[test]
fn non_causal_documents_must_be_whole() {
    let plan = Plan::new(&[6], 4).unwrap();
    let attention = operator().non_causal();
    let (q, kv) = (elements(48), elements(48));
    let inputs = Sequence { plan, attention, q: &q, kv: &kv, dout: None };
    let error = sequence(&HostHarness::new(Reference), &inputs, Options::default()).unwrap_err();
    assert_eq!(
        error,
        Error::Problem(ProblemError::FutureKeys { document: 0, document_end: 6, window_end: 4 })
    );
}

#[test]
fn varlen_inputs_of_wrong_sizes_are_refused() {
    let run = |q: usize, k: usize, v: usize, dout: usize| {
        let (q, k, v, dout) = (elements(q), elements(k), elements(v), elements(dout));
        let documents = Varlen::new(&[0, 2], &[0, 3], 2, 3).unwrap();
        let attention = operator();
        let inputs = VarlenBatch { varlen: documents, attention, q: &q, k: &k, v: &v, dout: Some(&dout) };
        varlen(&HostHarness::new(Reference), &inputs).map(|_| ())
    };
    assert_eq!(run(16, 12, 12, 16), Ok(()));
    assert_eq!(run(17, 12, 12, 16), Err(Error::Elements { input: "q", expected: 16, given: 17 }));
    assert_eq!(run(16, 11, 12, 16), Err(Error::Elements { input: "k", expected: 12, given: 11 }));
    assert_eq!(run(16, 12, 0, 16), Err(Error::Elements { input: "v", expected: 12, given: 0 }));
    assert_eq!(run(16, 12, 12, 15), Err(Error::Elements { input: "dout", expected: 16, given: 15 }));
}

#[test]
fn without_dout_there_are_no_gradients() {
    let (q, kv) = (elements(48), elements(48));
    let plan = Plan::new(&[4, 2], 4).unwrap();
    let inputs = Sequence { plan, attention: operator(), q: &q, kv: &kv, dout: None };
    let outcome = sequence(&HostHarness::new(Reference), &inputs, Options::default()).unwrap();
    assert_eq!(outcome.gradients, None);
    assert!(outcome.out.iter().all(|x| x.is_finite()));
}
