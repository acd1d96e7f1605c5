//! The golden cases on a device; `tests/golden/README.md` says what the files hold.

use super::safetensors::{File, Numbers, golden};
use microseq::dev::run::{self, Options, Sequence, VarlenBatch};
use microseq::dev::{ErrorOf, Harness, Quantity, assert_close, oracle};
use microseq::{Attention, DType, Element, Plan, Varlen, bf16, f16};

/// The names of all cases, in order.
pub(crate) fn names() -> Vec<String> {
    let files = std::fs::read_dir(golden("")).expect("the directory is there");
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> =
        names.filter_map(|name| name.strip_suffix(".in.safetensors").map(str::to_owned)).collect();
    names.sort();
    names
}

/// Runs a case; a sequence cut into steps of several lengths. `what` names the device.
///
/// # Panics
/// Where a result is outside the tolerance of its type.
pub(crate) fn case<H: Harness>(harness: &H, what: &str, name: &str)
where
    ErrorOf<H>: Send + Sync,
{
    let (input, expected) = File::case(name);
    let case = Case { what, name, input, expected };
    match case.input.dtype("q") {
        DType::F32 => case.run::<H, f32>(harness),
        DType::F16 => case.run::<H, f16>(harness),
        DType::Bf16 => case.run::<H, bf16>(harness),
    }
}

struct Case<'a> {
    what: &'a str,
    name: &'a str,
    input: File,
    expected: File,
}

impl Case<'_> {
    fn run<H: Harness, E: Numbers>(&self, harness: &H)
    where
        ErrorOf<H>: Send + Sync,
    {
        if self.input.has("kv") { self.sequence::<H, E>(harness) } else { self.op::<H, E>(harness) }
    }

    fn sequence<H: Harness, E: Numbers>(&self, harness: &H)
    where
        ErrorOf<H>: Send + Sync,
    {
        let input = &self.input;
        let (q, kv, dout) = (input.tensor::<E>("q"), input.tensor::<E>("kv"), input.tensor::<E>("dout"));
        let attention = attention(input, q.shape[1], kv.shape[1] / 2, q.shape[2]);
        let lengths = input.lengths();
        let tokens = q.shape[0];
        for micro in micro_sequence_lengths(tokens, &attention) {
            let plan = Plan::padded(&lengths, tokens, micro).unwrap();
            let inputs =
                Sequence { plan, attention, q: &q.elements, kv: &kv.elements, dout: Some(&dout.elements) };
            let cut = format!(", steps of {micro}");
            let result = run::sequence(harness, &inputs, Options::default()).unwrap();
            let gradients = result.gradients.unwrap();
            self.check(&cut, "out", &result.out, E::DTYPE);
            self.check(&cut, "lse", &result.lse, E::DTYPE);
            self.check(&cut, "dq", &gradients.dq, E::DTYPE);
            self.check(&cut, "dkv", &gradients.dkv, E::DTYPE);
        }
    }

    /// The op form, one call.
    fn op<H: Harness, E: Numbers>(&self, harness: &H)
    where
        ErrorOf<H>: Send + Sync,
    {
        let input = &self.input;
        let (q, dout) = (input.tensor::<E>("q"), input.tensor::<E>("dout"));
        let (k, v) = (input.tensor::<E>("k"), input.tensor::<E>("v"));
        let (cu_seqlens_q, cu_seqlens_k) = (input.integers("cu_seqlens_q"), input.integers("cu_seqlens_k"));
        let inputs = VarlenBatch {
            varlen: Varlen::new(&cu_seqlens_q, &cu_seqlens_k, q.shape[0], k.shape[0]).unwrap(),
            attention: attention(input, q.shape[1], k.shape[1], q.shape[2]),
            q: &q.elements,
            k: &k.elements,
            v: &v.elements,
            dout: Some(&dout.elements),
        };
        let result = run::varlen(harness, &inputs).unwrap();
        let gradients = result.gradients.unwrap();
        self.check("", "out", &result.out, E::DTYPE);
        self.check("", "lse", &result.lse, E::DTYPE);
        self.check("", "dq", &gradients.dq, E::DTYPE);
        self.check("", "dk", &gradients.dk, E::DTYPE);
        self.check("", "dv", &gradients.dv, E::DTYPE);
    }

    fn check<E: Element>(&self, cut: &str, tensor: &str, given: &[E], dtype: DType) {
        let quantity = match tensor {
            "out" => Quantity::Out,
            "lse" => Quantity::Lse,
            _ => Quantity::Gradient,
        };
        let what = format!("{}{cut}, {}: {tensor}", self.name, self.what);
        assert_close(&what, quantity, dtype, &oracle::widen(given), &self.expected.wide(tensor));
    }
}

/// The operator of a case.
pub(crate) fn attention(input: &File, heads: usize, kv_heads: usize, head_dim: usize) -> Attention {
    let mut attention = Attention::new(heads, kv_heads, head_dim).unwrap();
    if input.number("causal") == Some(false) {
        attention = attention.non_causal();
    }
    if let Some(scale) = input.number("scale") {
        attention = attention.with_scale(scale).unwrap();
    }
    if let Some(window) = input.number("window") {
        attention = attention.with_window(window).unwrap();
    }
    if let Some(softcap) = input.number("softcap") {
        attention = attention.with_softcap(softcap).unwrap();
    }
    attention
}

/// Steps that cut documents everywhere, a few times, and not at all. Non-causal attention wants
/// whole documents.
pub(crate) fn micro_sequence_lengths(tokens: usize, attention: &Attention) -> Vec<usize> {
    if attention.mask().causal { vec![5, tokens.div_ceil(3), tokens] } else { vec![tokens, 2 * tokens] }
}
