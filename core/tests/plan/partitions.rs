//! Every partition of up to 12 tokens into documents, with and without empty documents and padding,
//! in every step length, on every number of ranks.

use crate::transcription::{Rows, describe};
use microseq_core::{Mask, Plan, Segment, Slot, Step};
use std::num::NonZeroUsize;

const TOKENS: usize = 12;

/// Every way to write `n` as a sum of ordered positive lengths: a cut, or none, behind each row.
fn partitions(n: usize) -> impl Iterator<Item = Vec<u32>> {
    (0..1usize << n.saturating_sub(1)).map(move |cuts| {
        let mut lengths = vec![];
        let mut begin = 0;
        for row in 1..=n {
            if row == n || cuts & (1 << (row - 1)) != 0 {
                lengths.push((row - begin) as u32);
                begin = row;
            }
        }
        lengths
    })
}

/// An empty document before every document, and two at the end.
fn with_empty_documents(lengths: &[u32]) -> Vec<u32> {
    lengths.iter().flat_map(|&length| [0, length]).chain([0, 0]).collect()
}

/// Every plan over partitions of up to `TOKENS` tokens; padding fills them up.
fn for_each_plan(mut check: impl FnMut(&Plan<'_>, &Rows)) {
    for documents_end in 0..=TOKENS {
        for lengths in partitions(documents_end) {
            for lengths in [with_empty_documents(&lengths), lengths] {
                for padding in [0, 1, 4].into_iter().filter(|padding| documents_end + padding <= TOKENS) {
                    let tokens = documents_end + padding;
                    let rows = Rows::new(&lengths, tokens);
                    for micro_sequence_length in 1..=tokens + 1 {
                        check(&Plan::padded(&lengths, tokens, micro_sequence_length).unwrap(), &rows);
                    }
                }
            }
        }
    }
}

#[test]
fn partitions_are_all_different() {
    let partitions: std::collections::BTreeSet<_> = partitions(5).collect();
    assert_eq!(partitions.len(), 16);
    assert!(partitions.iter().all(|lengths| lengths.iter().sum::<u32>() == 5));
}

#[test]
fn steps_are_as_defined() {
    for_each_plan(|plan, rows| {
        let mut begin = 0;
        for (index, step) in plan.steps().enumerate() {
            let end = (begin + plan.micro_sequence_length()).min(plan.tokens());
            assert_eq!(
                (step.index(), step.rows(), step.write()),
                (index, begin..end, begin..end),
                "{plan:?}"
            );
            check(&step, rows, plan);
            begin = end;
        }
        assert_eq!(begin, plan.tokens(), "the steps of {plan:?} cover the sequence");
    });
}

#[test]
fn shares_are_as_defined() {
    for_each_plan(|plan, rows| {
        for step in plan.steps() {
            let n = step.rows().len();
            for ranks in 1..=n + 1 {
                for rank in 0..ranks {
                    let share = step.share(rank, ranks).unwrap();
                    let expected = step.begin() + rank * n / ranks..step.begin() + (rank + 1) * n / ranks;
                    assert_eq!((share.rows(), share.write()), (expected, step.write()), "{plan:?}");
                    check(&share, rows, plan);
                }
            }
        }
    });
}

/// Everything that is said of a step or a share.
fn check(step: &Step<'_>, rows: &Rows, plan: &Plan<'_>) {
    let own = step.rows();
    let expected = rows.describe(own.clone());
    let what = || format!("rows {own:?} of {plan:?}");
    assert_eq!(describe(step), expected, "{}", what());
    assert_eq!(step.window(), expected.first_document_begin..own.end, "{}", what());
    assert_eq!(step.past(), expected.first_document_begin..own.start, "{}", what());
    assert_eq!(step.unfinished(), rows.unfinished(own.clone()), "{}", what());
    assert_eq!(step.untouched(), rows.untouched(step.window(), step.write().end), "{}", what());

    let documents = rows.documents(own.clone());
    assert_eq!(step.documents(), documents.len(), "{}", what());
    if let Some(&first) = documents.first() {
        assert_eq!(step.first_document(), first, "{}", what());
    }
    let document_rows = expected.document_index_q.iter().filter(|&&index| index > 0).count();
    assert_eq!(step.document_rows(), document_rows, "{}", what());
    let segments: Vec<_> = step.segments().collect();
    assert_eq!(segments, segments_of(&expected.cu_seqlens_q, &expected.cu_seqlens_k), "{}", what());
    for mask in masks() {
        assert_eq!(step.pairs(mask), rows.pairs(own.clone(), mask), "{mask:?} over {}", what());
    }
}

fn segments_of(q: &[i32], k: &[i32]) -> Vec<Segment> {
    let pairs = q.windows(2).zip(k.windows(2));
    let segment = |(q, k): (&[i32], &[i32])| Segment {
        q_begin: q[0] as usize,
        q_len: (q[1] - q[0]) as usize,
        k_begin: k[0] as usize,
        k_len: (k[1] - k[0]) as usize,
    };
    pairs.map(segment).collect()
}

fn masks() -> [Mask; 4] {
    let window = NonZeroUsize::new(3);
    [Mask::CAUSAL, Mask::FULL, Mask { causal: true, window }, Mask { causal: false, window }]
}

#[test]
fn steps_are_the_same_from_both_ends() {
    for_each_plan(|plan, _| {
        let forward: Vec<_> = plan.steps().collect();
        let mut backward: Vec<_> = plan.steps().rev().collect();
        backward.reverse();
        assert_eq!(forward, backward, "{plan:?}");
        assert_eq!(plan.steps().len(), forward.len(), "{plan:?}");
        // A few of the ways to take some from each end; bit n says where the n-th comes from.
        for ends in [0b01_0101_0101_0101, 0b10_1010_1010_1010, 0b00_1110_0011_0010, 0b11_0001_1100_1101] {
            assert_eq!(taken(plan, forward.len(), ends), forward, "{plan:?} from ends {ends:b}");
        }
    });
}

/// The steps in forward order, each taken from the front where its bit is set, else from the back.
fn taken<'a>(plan: &Plan<'a>, count: usize, ends: usize) -> Vec<Step<'a>> {
    let mut steps = plan.steps();
    let (mut front, mut back) = (vec![], vec![]);
    for n in 0..count {
        if ends & (1 << n) != 0 {
            front.extend(steps.next());
        } else {
            back.extend(steps.next_back());
        }
    }
    assert!(steps.next().is_none() && steps.next_back().is_none(), "{plan:?} has too many steps");
    front.into_iter().chain(back.into_iter().rev()).collect()
}

#[test]
fn slots_take_every_plan() {
    for_each_plan(|plan, _| {
        let mut slot = Slot::new(plan);
        for step in plan.steps() {
            assert_eq!(slot.frontier(), step.begin(), "{plan:?}");
            assert_eq!(slot.forward(&step), Ok(step.window()), "{plan:?}");
        }
        for step in plan.steps().rev() {
            assert_eq!(slot.sealed(), step.end()..plan.tokens(), "{plan:?}");
            assert_eq!(slot.backward(&step), Ok(step.window()), "{plan:?}");
        }
        assert_eq!((slot.frontier(), slot.sealed().end), (plan.tokens(), plan.tokens()), "{plan:?}");
    });
}
