//! Shares and prefix sums that a step does not have.

use crate::kind::{Kind, untouched};
use microseq::{Plan, Step, StepError};

pub(crate) fn kinds() -> Vec<Kind> {
    let plan = Plan::new(&[4, 1, 10], 5).unwrap();
    let step = plan.steps().next().unwrap();
    vec![
        Kind::new("a share of no ranks", step.share(0, 0), StepError::ZeroRanks),
        Kind::new(
            "the rank behind the last",
            step.share(3, 3),
            StepError::RankOutOfRange { rank: 3, ranks: 3 },
        ),
        Kind::new(
            "a rank far outside its group",
            step.share(usize::MAX, 2),
            StepError::RankOutOfRange { rank: usize::MAX, ranks: 2 },
        ),
        short_q(&step),
        short_k(&step),
    ]
}

fn short_q(step: &Step<'_>) -> Kind {
    let name = "a short buffer for cu_seqlens_q";
    let result = untouched(name, 3, |k| untouched(name, 2, |q| step.cu_seqlens(q, k).map(|_| ())));
    Kind::new(name, result, StepError::CuSeqlensQTooShort { expected: 3, given: 2 })
}

fn short_k(step: &Step<'_>) -> Kind {
    let name = "a short buffer for cu_seqlens_k";
    let result = untouched(name, 0, |k| untouched(name, 9, |q| step.cu_seqlens(q, k).map(|_| ())));
    Kind::new(name, result, StepError::CuSeqlensKTooShort { expected: 3, given: 0 })
}
