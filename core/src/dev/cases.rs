//! Interesting cases, the same on every machine.
//!
//! A case is an operator and documents; its data comes from [`Random`] with the case's own seed.
//! [`sequences`] and [`varlens`] list the cases of the conformance suite: some made by hand, each
//! for a reason that its name gives, and some drawn at random.

use super::Random;
use crate::{Attention, AttentionError, Element, Plan, PlanError, Problem, Varlen, VarlenError};
use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

/// Documents packed into a sequence that is cut into steps.
#[derive(Clone, Debug)]
pub struct SequenceCase {
    /// What the case is there for.
    pub name: String,
    /// The operator.
    pub attention: Attention,
    /// Document lengths.
    pub lengths: Vec<u32>,
    /// Rows of the sequence.
    pub tokens: usize,
    /// Rows of a step.
    pub micro_sequence_length: usize,
    /// Simulated ranks.
    pub ranks: usize,
    /// Seed of the data.
    pub seed: u64,
}

impl SequenceCase {
    /// The plan of the case.
    ///
    /// # Errors
    /// None for the cases of this module.
    pub fn plan(&self) -> Result<Plan<'_>, PlanError> {
        Plan::padded(&self.lengths, self.tokens, self.micro_sequence_length)
    }
}

/// Documents in the plain varlen form.
#[derive(Clone, Debug)]
pub struct VarlenCase {
    /// What the case is there for.
    pub name: String,
    /// The operator.
    pub attention: Attention,
    /// Prefix sums of the queries; may start above 0.
    pub cu_seqlens_q: Vec<i32>,
    /// Prefix sums of the keys; may start above 0.
    pub cu_seqlens_k: Vec<i32>,
    /// Rows of the query view.
    pub q_rows: usize,
    /// Rows of the K/V view.
    pub k_rows: usize,
    /// Seed of the data.
    pub seed: u64,
}

impl VarlenCase {
    /// The batch of the case.
    ///
    /// # Errors
    /// None for the cases of this module.
    pub fn varlen(&self) -> Result<Varlen<'_>, VarlenError> {
        Varlen::new(&self.cu_seqlens_q, &self.cu_seqlens_k, self.q_rows, self.k_rows)
    }

    /// Documents of `(q_len, k_len)` from row 0 on, without further rows.
    fn documents(name: &str, attention: Attention, documents: &[(usize, usize)]) -> Self {
        Self::placed(name, attention, documents, (0, 0), (0, 0))
    }

    /// Documents of `(q_len, k_len)`; before and behind them, rows of no document: `(q, k)` each.
    fn placed(
        name: &str,
        attention: Attention,
        documents: &[(usize, usize)],
        before: (usize, usize),
        behind: (usize, usize),
    ) -> Self {
        let Documents { cu_seqlens_q, cu_seqlens_k, q_rows, k_rows } =
            Documents::placed(documents, before, behind);
        Self { name: name.into(), attention, cu_seqlens_q, cu_seqlens_k, q_rows, k_rows, seed: 1 }
    }
}

/// The documents of a plain varlen batch, and the rows of its views.
pub(crate) struct Documents {
    pub(crate) cu_seqlens_q: Vec<i32>,
    pub(crate) cu_seqlens_k: Vec<i32>,
    pub(crate) q_rows: usize,
    pub(crate) k_rows: usize,
}

impl Documents {
    /// Documents of `(q_len, k_len)` from row 0 on, without further rows.
    pub(crate) fn new(documents: &[(usize, usize)]) -> Self {
        Self::placed(documents, (0, 0), (0, 0))
    }

    /// Documents of `(q_len, k_len)`; before and behind them, rows of no document: `(q, k)` each.
    pub(crate) fn placed(
        documents: &[(usize, usize)],
        before: (usize, usize),
        behind: (usize, usize),
    ) -> Self {
        let cu_seqlens_q = prefix_sums(before.0, documents.iter().map(|d| d.0));
        let cu_seqlens_k = prefix_sums(before.1, documents.iter().map(|d| d.1));
        let q_rows = cu_seqlens_q[documents.len()] as usize + behind.0;
        let k_rows = cu_seqlens_k[documents.len()] as usize + behind.1;
        Self { cu_seqlens_q, cu_seqlens_k, q_rows, k_rows }
    }

    /// The batch under an operator that any batch may have.
    pub(crate) fn problem<E: Element>(&self, attention: Attention) -> Problem<'_> {
        let varlen = Varlen::new(&self.cu_seqlens_q, &self.cu_seqlens_k, self.q_rows, self.k_rows);
        Problem::new(attention, varlen.expect("legal cu_seqlens"), E::DTYPE).expect("a legal problem")
    }
}

/// `first`, `first + lengths[0]`, …
fn prefix_sums(first: usize, lengths: impl Iterator<Item = usize>) -> Vec<i32> {
    let mut sums = vec![first as i32];
    for length in lengths {
        sums.push(sums[sums.len() - 1] + length as i32);
    }
    sums
}

/// The operators that differ in what they ask of a device, on `heads` over `kv_heads`.
fn masks(
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
) -> Result<Vec<(&'static str, Attention)>, AttentionError> {
    let plain = Attention::new(heads, kv_heads, head_dim)?;
    Ok(vec![
        ("causal", plain),
        ("non-causal", plain.non_causal()),
        ("window 1", plain.with_window(1)?),
        ("window 7", plain.with_window(7)?),
        ("non-causal window 5", plain.non_causal().with_window(5)?),
        ("window beyond every document", plain.with_window(usize::MAX)?),
        ("softcap", plain.with_softcap(2.0)?),
        ("softcap far above all scores", plain.with_softcap(1e6)?),
        ("scale", plain.with_scale(0.7)?),
        ("scale below 0", plain.with_scale(-0.3)?),
        ("scale 0", plain.with_scale(0.0)?),
        ("all at once", plain.with_window(9)?.with_softcap(1.5)?.with_scale(0.4)?),
    ])
}

/// Head dims of every kind: tiny, odd, multiples of the usual tiles and not, the largest.
pub const HEAD_DIMS: [usize; 12] = [1, 2, 3, 16, 33, 64, 72, 80, 128, 256, 320, 512];

/// `(heads, kv_heads)`: one head, MHA, GQA of several groups, MQA.
pub const GROUPINGS: [(usize, usize); 6] = [(1, 1), (3, 3), (4, 2), (6, 2), (5, 1), (8, 1)];

/// Every varlen case of the suite.
pub fn varlens() -> Vec<VarlenCase> {
    let attention = operator(4, 2, 16);
    let mut cases = vec![
        VarlenCase::documents("documents of one row", attention, &[(1, 1), (9, 9), (1, 1), (1, 1)]),
        VarlenCase::documents(
            "empty documents",
            attention,
            &[(0, 0), (5, 5), (0, 0), (0, 0), (7, 7), (0, 0)],
        ),
        VarlenCase::documents("more keys than queries", attention, &[(3, 20), (1, 40), (8, 9)]),
        VarlenCase::documents("more queries than keys", attention, &[(20, 3), (40, 1), (9, 8)]),
        VarlenCase::documents("queries without keys", attention, &[(5, 0), (6, 6), (3, 0)]),
        VarlenCase::documents("keys without queries", attention, &[(0, 5), (6, 6), (0, 3)]),
        VarlenCase::placed("first entries above 0", attention, &[(4, 4), (9, 12)], (3, 5), (0, 0)),
        VarlenCase::placed("rows behind the documents", attention, &[(4, 4), (9, 12)], (0, 0), (6, 2)),
        VarlenCase::placed("rows all around", attention, &[(4, 6), (0, 0), (7, 3)], (2, 1), (3, 8)),
        VarlenCase::documents("one long document", attention, &[(150, 150)]),
        VarlenCase::documents("a long past", attention, &[(40, 300)]),
        VarlenCase::documents("many documents", attention, &[(3, 3); 60]),
    ];
    cases.extend(sweep_masks());
    cases.extend(sweep_head_dims());
    cases.extend(sweep_groupings());
    cases.extend((0..24).map(random_varlen));
    cases
}

fn sweep_masks() -> impl Iterator<Item = VarlenCase> {
    let masks = masks(4, 2, 20).expect("legal operators");
    masks.into_iter().map(|(name, attention)| {
        VarlenCase::documents(name, attention, &[(1, 1), (33, 33), (12, 70), (30, 11), (2, 2)])
    })
}

fn sweep_head_dims() -> impl Iterator<Item = VarlenCase> {
    HEAD_DIMS.into_iter().map(|head_dim| {
        let attention = operator(2, 1, head_dim);
        VarlenCase::documents(&format!("head_dim {head_dim}"), attention, &[(17, 17), (5, 30)])
    })
}

fn sweep_groupings() -> impl Iterator<Item = VarlenCase> {
    GROUPINGS.into_iter().map(|(heads, kv_heads)| {
        let attention = operator(heads, kv_heads, 24);
        let name = format!("{heads} heads on {kv_heads}");
        VarlenCase::documents(&name, attention, &[(19, 19), (3, 25), (1, 1)])
    })
}

fn random_varlen(seed: u64) -> VarlenCase {
    let random = &mut Random::new(seed ^ 0x7a72_6c65);
    let documents: Vec<_> = (0..1 + random.below(6)).map(|_| (length(random), length(random))).collect();
    let around = [0, 0, 0, 1, 6];
    let before = (random.choose(&around), random.choose(&around));
    let behind = (random.choose(&around), random.choose(&around));
    let (name, attention) = random_operator(random);
    let name = format!("random {seed}: {name}, {documents:?}");
    VarlenCase { seed, ..VarlenCase::placed(&name, attention, &documents, before, behind) }
}

/// Every sequence case of the suite.
pub fn sequences() -> Vec<SequenceCase> {
    let attention = operator(4, 2, 16);
    let case = |name: &str, lengths: &[u32], tokens, micro_sequence_length, ranks| SequenceCase {
        name: name.into(),
        attention,
        lengths: lengths.into(),
        tokens,
        micro_sequence_length,
        ranks,
        seed: 2,
    };
    let mut cases = vec![
        case("one step", &[4, 1, 10], 15, 15, 1),
        case("a document across steps", &[4, 1, 10], 15, 5, 1),
        case("a short last step", &[4, 1, 10], 15, 4, 1),
        case("one document across all steps", &[60], 60, 13, 1),
        case("steps of one row", &[3, 1, 5], 9, 1, 1),
        case("a step longer than the sequence", &[3, 1, 5], 9, 100, 2),
        case("padding in the last step", &[4, 1, 10], 20, 6, 1),
        case("steps of padding alone", &[4, 1], 20, 4, 2),
        case("padding alone", &[], 10, 4, 3),
        case("no rows at all", &[0, 0], 0, 4, 2),
        case("empty documents", &[0, 4, 0, 0, 7, 0], 11, 3, 1),
        case("ranks", &[4, 1, 10, 17], 32, 8, 4),
        case("shares of unequal size", &[4, 1, 10, 17], 32, 10, 3),
        case("more ranks than rows", &[5, 4], 9, 3, 7),
    ];
    cases.extend((0..16).map(random_sequence));
    cases
}

fn random_sequence(seed: u64) -> SequenceCase {
    let random = &mut Random::new(seed ^ 0x7365_7175);
    let lengths: Vec<u32> = (0..1 + random.below(8)).map(|_| length(random) as u32).collect();
    let documents_end: usize = lengths.iter().map(|&length| length as usize).sum();
    let tokens = documents_end + random.choose(&[0, 0, 1, 9]);
    let (name, attention) = random_operator(random);
    let causal = attention.mask().causal;
    SequenceCase {
        name: format!("random {seed}: {name}, {lengths:?}"),
        attention,
        lengths,
        tokens,
        // Non-causal documents must be whole in every step and share.
        micro_sequence_length: if causal { 1 + random.below(tokens.max(1)) } else { tokens.max(1) },
        ranks: if causal { 1 + random.below(4) } else { 1 },
        seed,
    }
}

/// A length that is often short, sometimes 0, sometimes longer than a tile.
fn length(random: &mut Random) -> usize {
    let limit = random.choose(&[1, 2, 8, 20, 90]);
    random.below(limit + 1)
}

fn random_operator(random: &mut Random) -> (String, Attention) {
    let (heads, kv_heads) = random.choose(&GROUPINGS);
    let head_dim = random.choose(&[1, 8, 24, 40, 64, 128]);
    let (name, attention) = random.choose(&masks(heads, kv_heads, head_dim).expect("legal operators"));
    (format!("{name}, {heads} heads on {kv_heads} of {head_dim}"), attention)
}

/// Plain causal attention.
pub(crate) fn operator(heads: usize, kv_heads: usize, head_dim: usize) -> Attention {
    Attention::new(heads, kv_heads, head_dim).expect("a legal operator")
}
