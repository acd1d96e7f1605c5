//! Operators that compute nothing, and operators that do not suit a step.

use crate::kind::Kind;
use microseq::{Attention, AttentionError, DType, Plan, Problem, ProblemError};

pub(crate) fn kinds() -> Vec<Kind> {
    [heads(), numbers(), problems()].concat()
}

fn heads() -> Vec<Kind> {
    let kind = |name, heads, kv_heads, head_dim, expected| {
        Kind::new(name, Attention::new(heads, kv_heads, head_dim), expected)
    };
    let uneven = |heads, kv_heads| AttentionError::UnevenGroups { heads, kv_heads };
    vec![
        kind("no heads", 0, 1, 64, AttentionError::ZeroHeads),
        kind("heads without end", usize::MAX, 1, 64, AttentionError::TooManyHeads { heads: usize::MAX }),
        kind("no K/V heads", 4, 0, 64, AttentionError::ZeroKvHeads),
        kind("uneven groups", 6, 4, 64, uneven(6, 4)),
        kind("fewer heads than K/V heads", 2, 4, 64, uneven(2, 4)),
        kind("head_dim 0", 4, 2, 0, AttentionError::HeadDim { head_dim: 0 }),
        kind("head_dim 513", 4, 2, 513, AttentionError::HeadDim { head_dim: 513 }),
        kind("head_dim without end", 4, 2, usize::MAX, AttentionError::HeadDim { head_dim: usize::MAX }),
    ]
}

fn numbers() -> Vec<Kind> {
    let attention = Attention::new(4, 2, 64).unwrap();
    let scale = |name, scale| Kind::new(name, attention.with_scale(scale), AttentionError::Scale { scale });
    let softcap =
        |name, softcap| Kind::new(name, attention.with_softcap(softcap), AttentionError::Softcap { softcap });
    vec![
        Kind::new("a window of nothing", attention.with_window(0), AttentionError::ZeroWindow),
        scale("scale NaN", f32::NAN),
        scale("scale too large", 2.4e38),
        scale("scale too far below 0", -2.4e38),
        scale("scale infinite", f32::INFINITY),
        scale("scale minus infinite", f32::NEG_INFINITY),
        softcap("softcap 0", 0.0),
        softcap("softcap too small", 1e-38),
        softcap("softcap too large", f32::MAX),
        softcap("softcap minus 0", -0.0),
        softcap("softcap negative", -20.0),
        softcap("softcap NaN", f32::NAN),
        softcap("softcap infinite", f32::INFINITY),
        softcap("softcap minus infinite", f32::NEG_INFINITY),
    ]
}

fn problems() -> Vec<Kind> {
    let attention = Attention::new(4, 2, 64).unwrap().non_causal();
    let plan = Plan::new(&[4, 1, 10], 5).unwrap();
    let steps: Vec<_> = plan.steps().collect();
    let kind = |name: &str, step, document, document_end, window_end| {
        let expected = ProblemError::FutureKeys { document, document_end, window_end };
        Kind::new(name, Problem::new(attention, step, DType::F32), expected)
    };
    assert!(Problem::new(attention, steps[0], DType::F32).is_ok(), "whole documents are legal");
    let share = steps[0].share(0, 2).unwrap();
    vec![kind("keys of a later step", steps[1], 2, 15, 10), kind("keys of a later rank", share, 0, 4, 2), {
        let windowed = attention.with_window(1).unwrap();
        let expected = ProblemError::FutureKeys { document: 2, document_end: 15, window_end: 13 };
        let share = steps[2].share(1, 3).unwrap();
        Kind::new("a window does not help", Problem::new(windowed, share, DType::F32), expected)
    }]
}
