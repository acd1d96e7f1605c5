//! The sequence that is shared out, and what is expected of the ranks.

use crate::Args;
use anyhow::Result;
use microseq::dev::Random;
use microseq::{Agreement, Attention, DType, Plan, PlanError};
use std::fmt;

/// A packed sequence and its seeded inputs: every rank makes all of them and uses its own rows.
pub(crate) struct Job {
    lengths: Vec<u32>,
    micro_sequence_length: usize,
    pub(crate) attention: Attention,
    pub(crate) tokens: usize,
    pub(crate) q: Vec<f32>,
    pub(crate) kv: Vec<f32>,
    pub(crate) dout: Vec<f32>,
}

/// Results for the whole sequence, of which a rank fills in its own rows.
pub(crate) struct Results {
    pub(crate) out: Vec<f32>,
    pub(crate) lse: Vec<f32>,
    pub(crate) dq: Vec<f32>,
    pub(crate) dkv: Vec<f32>,
}

impl Job {
    pub(crate) fn new(args: &Args) -> Result<Self> {
        let attention = Attention::new(args.heads, args.kv_heads, args.head_dim)?;
        let lengths = args.lengths.0.clone();
        let tokens = Plan::new(&lengths, args.micro_sequence_length)?.tokens();
        let mut random = Random::new(1);
        let (q, kv) = (attention.q_layout(tokens), attention.kv_layout(tokens));
        let mut elements = |row| random.elements(tokens * row);
        Ok(Self {
            lengths,
            micro_sequence_length: args.micro_sequence_length,
            attention,
            tokens,
            q: elements(q.row_stride()),
            kv: elements(kv.row_stride()),
            dout: elements(q.row_stride()),
        })
    }

    pub(crate) fn plan(&self) -> Result<Plan<'_>, PlanError> {
        Plan::new(&self.lengths, self.micro_sequence_length)
    }

    /// What all ranks must have been given alike.
    pub(crate) fn agreement(&self, ranks: usize) -> Result<Agreement, PlanError> {
        Ok(Agreement::new(&self.plan()?, &self.attention, DType::F32, ranks))
    }

    /// A rank's rows beside those of one rank alone.
    pub(crate) fn compare(
        &self,
        given: &Results,
        expected: &Results,
        rank: usize,
        ranks: usize,
    ) -> Result<Comparison> {
        let (q, kv) = (self.attention.q_layout(1).row_stride(), self.attention.kv_layout(1).row_stride());
        let mut comparison = Comparison { rows: 0, same_bits: true, sums_apart: 0.0 };
        for step in self.plan()?.steps() {
            let rows = step.write_share(rank, ranks)?;
            comparison.rows += rows.len();
            let same = |given: &[f32], expected: &[f32], row: usize| {
                let rows = rows.start * row..rows.end * row;
                given[rows.clone()].iter().zip(&expected[rows]).all(|(a, b)| a.to_bits() == b.to_bits())
            };
            let lse = given.lse.chunks(self.tokens).zip(expected.lse.chunks(self.tokens));
            comparison.same_bits &= same(&given.out, &expected.out, q)
                && same(&given.dq, &expected.dq, q)
                && { lse }.all(|(given, expected)| same(given, expected, 1));
            let sums = rows.start * kv..rows.end * kv;
            let apart = given.dkv[sums.clone()].iter().zip(&expected.dkv[sums]).map(|(a, b)| (a - b).abs());
            // A NaN is as far apart as can be.
            let largest = |a: f32, b: f32| if b.is_nan() { f32::INFINITY } else { a.max(b) };
            comparison.sums_apart = apart.fold(comparison.sums_apart, largest);
        }
        Ok(comparison)
    }
}

/// How a rank's rows compare.
pub(crate) struct Comparison {
    rows: usize,
    /// Of out, lse and dq.
    pub(crate) same_bits: bool,
    /// The largest difference of dk and dv, which are summed over ranks.
    sums_apart: f32,
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, same_bits, sums_apart } = self;
        let bits = if *same_bits { "bit-identical to" } else { "NOT those of" };
        write!(f, "{rows} rows; out, lse, dq {bits} one rank's; dk, dv differ by {sums_apart:.1e} at most")
    }
}
