//! Planning against a transcription that looks at every row: plan, steps from both ends, shares,
//! segments, cu_seqlens, indices and the slot's order.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use microseq::{Mask, Plan, PlanError, Segment, Slot, Step};

/// Rows up to which every row is looked at.
const SMALL: usize = 600;
/// Steps looked at of a plan that has more.
const STEPS: usize = 64;

#[derive(Arbitrary, Debug)]
struct Input {
    lengths: Vec<Length>,
    padding: Option<u32>,
    micro_sequence_length: Length,
    ranks: u8,
    /// From which end the next step is taken.
    from_back: Vec<bool>,
}

/// A number that is more often small than chance would have it.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Length {
    Small(u8),
    Any(u32),
}

impl Length {
    fn get(self) -> u32 {
        match self {
            Self::Small(n) => u32::from(n % 24),
            Self::Any(n) => n,
        }
    }
}

fuzz_target!(|input: Input| {
    let lengths: Vec<u32> = input.lengths.iter().map(|n| n.get()).collect();
    let micro = input.micro_sequence_length.get() as usize;
    let sum: u64 = lengths.iter().map(|&n| u64::from(n)).sum();
    let plan = match input.padding {
        None => Plan::new(&lengths, micro),
        Some(rows) => Plan::padded(&lengths, rows as usize, micro),
    };
    let tokens = input.padding.map_or(sum, u64::from);
    match plan {
        Err(error) => check_refusal(error, sum, tokens, micro),
        Ok(plan) => {
            assert!(micro > 0 && sum <= tokens && tokens <= i32::MAX as u64);
            assert_eq!((plan.documents_end() as u64, plan.tokens() as u64), (sum, tokens));
            check_ends(&plan, &input.from_back);
            if plan.tokens() <= SMALL {
                check_rows(&plan, usize::from(input.ranks % 9));
                check_slot(&plan);
            }
        }
    }
});

fn check_refusal(error: PlanError, sum: u64, tokens: u64, micro: usize) {
    let too_many = |n: u64| n > i32::MAX as u64;
    match error {
        PlanError::ZeroMicroSequenceLength => assert_eq!(micro, 0),
        PlanError::TooManyTokens { .. } => assert!(too_many(sum) || too_many(tokens)),
        PlanError::DocumentsExceedTokens { tokens: rows, document_end, .. } => {
            assert!(sum > tokens && rows as u64 == tokens && document_end as u64 > tokens);
        }
        other => panic!("no such refusal: {other}"),
    }
}

/// Steps taken from both ends in any order are those taken from the front.
fn check_ends<'a>(plan: &Plan<'a>, from_back: &[bool]) {
    let mut ends = plan.steps();
    let (mut front, mut back) = (0, plan.steps().len());
    for &from_back in from_back.iter().take(STEPS) {
        assert_eq!(ends.len(), back - front);
        let step = if from_back { ends.next_back() } else { ends.next() };
        let Some(step) = step else { break };
        if from_back {
            back -= 1
        } else {
            front += 1
        }
        assert_eq!(step.index(), if from_back { back } else { front - 1 });
        check_bounds(plan, &step);
    }
}

fn check_bounds(plan: &Plan<'_>, step: &Step<'_>) {
    let micro = plan.micro_sequence_length();
    assert_eq!(step.begin(), step.index() * micro);
    assert_eq!(step.end(), (step.begin() + micro).min(plan.tokens()));
    assert!(step.first_document_begin() <= step.begin());
}

/// The document of every row, and where that begins.
fn rows_of(plan: &Plan<'_>) -> Vec<Option<(usize, usize)>> {
    let mut rows = Vec::new();
    for (document, &length) in plan.lengths().iter().enumerate() {
        let begin = rows.len();
        rows.resize(begin + length as usize, Some((document, begin)));
    }
    rows.resize(plan.tokens(), None);
    rows
}

fn check_rows(plan: &Plan<'_>, ranks: usize) {
    let rows = rows_of(plan);
    let forward: Vec<_> = plan.steps().collect();
    let mut backward: Vec<_> = plan.steps().rev().collect();
    backward.reverse();
    assert_eq!(forward, backward);
    for step in &forward {
        check_step(step, &rows);
        let mut next = step.begin();
        for rank in 0..ranks {
            let share = step.share(rank, ranks).expect("the rank is in its group");
            assert_eq!((share.begin(), share.write()), (next, step.write()));
            check_step(&share, &rows);
            next = share.end();
        }
        assert!(ranks == 0 || next == step.end());
    }
}

fn check_step(step: &Step<'_>, rows: &[Option<(usize, usize)>]) {
    let expected = segments(step, rows);
    let first = (step.begin()..step.end()).find_map(|row| rows[row]);
    assert_eq!(step.first_document_begin(), first.map_or(step.begin(), |(_, begin)| begin));
    assert_eq!(step.segments().collect::<Vec<_>>(), expected);
    let pairs: usize = expected
        .iter()
        .flat_map(|s| (0..s.q_len).map(|i| Mask::CAUSAL.keys(i, s.q_len, s.k_len).len()))
        .sum();
    assert_eq!(step.pairs(Mask::CAUSAL), pairs as u64);
    let positions =
        (step.begin()..step.end()).map(|row| rows[row].map_or(0, |(_, begin)| row - begin) as u32);
    assert!(step.position_index().eq(positions));
    assert_eq!(step.document_index_k().count(), step.window().len());
    check_cu_seqlens(step, &expected);
}

/// The runs of rows of one document.
fn segments(step: &Step<'_>, rows: &[Option<(usize, usize)>]) -> Vec<Segment> {
    let mut found: Vec<(usize, Segment)> = Vec::new();
    for row in step.begin()..step.end() {
        let Some((document, begin)) = rows[row] else { continue };
        if found.last().is_none_or(|(last, _)| *last != document) {
            let k_begin = begin - step.first_document_begin();
            let segment = Segment { q_begin: row - step.begin(), q_len: 0, k_begin, k_len: row - begin };
            found.push((document, segment));
        }
        let (_, last) = found.last_mut().expect("one was pushed");
        last.q_len += 1;
        last.k_len += 1;
    }
    found.into_iter().map(|(_, segment)| segment).collect()
}

fn check_cu_seqlens(step: &Step<'_>, expected: &[Segment]) {
    let (mut q, mut k) = (vec![-1; expected.len() + 1], vec![-1; expected.len() + 1]);
    step.cu_seqlens(&mut q, &mut k).expect("the buffers are long enough");
    let past = (step.begin() - step.first_document_begin()) as i32;
    assert_eq!((q[0], k[0]), (0, 0));
    for (j, segment) in expected.iter().enumerate() {
        assert_eq!(q[j + 1] - q[j], segment.q_len as i32);
        assert_eq!(k[j + 1], q[j + 1] + past);
    }
    assert!(step.cu_seqlens(&mut q[1..], &mut k).is_err());
    assert!(step.cu_seqlens(&mut q, &mut k[1..]).is_err());
}

fn check_slot(plan: &Plan<'_>) {
    let mut slot = Slot::new(plan);
    for step in plan.steps() {
        assert_eq!(slot.frontier(), step.begin());
        assert_eq!(slot.forward(&step), Ok(step.window()));
        assert!(slot.forward(&step).is_err());
    }
    for step in plan.steps().rev() {
        assert_eq!(slot.sealed(), step.end()..plan.tokens());
        assert_eq!(slot.backward(&step), Ok(step.window()));
        assert!(slot.backward(&step).is_err() && slot.forward(&step).is_err());
    }
}
