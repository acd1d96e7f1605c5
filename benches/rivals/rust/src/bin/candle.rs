//! candle's ways on the CPU.
//!
//! - `fused_loop`: its fused op, a call for each document. It gives no gradient.
//! - `fused_varlen`: its fused op over packed documents, a call for each step. No gradient either.
//! - `unfused`: matrix products and a softmax, a round for each document, with autograd. (Its own unfused
//!   op over packed documents cuts the gradient too.)
//!
//! Favours: leaves and masks are laid out beforehand, and adding up the gradients of K and V over steps is not
//! timed.

use anyhow::{Context, Result, bail};
use candle_core::{D, DType, Device, Tensor, Var};
use candle_nn::attention::cpu_flash::varlen::flash_attn_varlen_cpu;
use candle_nn::attention::{AttnMask, flash_attn};
use candle_nn::ops::softmax;
use core::ops::Range;
use half::{bf16, f16};
use microseq_rivals::{Answer, Call, Hello, Packing, Request, Results, serve, timed};

fn main() -> Result<()> {
    let hello = Hello {
        name: "candle",
        version: "0.11.1".into(),
        threads: rayon::current_num_threads(),
        ways: &["fused_loop", "fused_varlen", "unfused"],
    };
    serve(&hello, |request| match request.way.as_str() {
        "unfused" => with_gradient(request),
        _ => forward_only(request),
    })
}

/// Operands in the element type, `[tokens, heads, head_dim]`.
struct Tensors {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dout: Tensor,
}

fn dtype(name: &str) -> Result<DType> {
    Ok(match name {
        "f32" => DType::F32,
        "f16" => DType::F16,
        "bf16" => DType::BF16,
        other => bail!("no type {other}"),
    })
}

fn tensors(request: &Request) -> Result<Tensors> {
    let given = request.operands()?;
    let dtype = dtype(&request.dtype)?;
    let tensor = |numbers: Vec<f32>, heads: usize| -> Result<Tensor> {
        let shape = (given.tokens, heads, request.head_dim);
        Ok(Tensor::from_vec(numbers, shape, &Device::Cpu)?.to_dtype(dtype)?)
    };
    Ok(Tensors {
        q: tensor(given.q, request.heads)?,
        k: tensor(given.k, request.kv_heads)?,
        v: tensor(given.v, request.kv_heads)?,
        dout: tensor(given.dout, request.heads)?,
    })
}

fn rows(tensor: &Tensor, rows: Range<usize>) -> Result<Tensor> {
    Ok(tensor.narrow(0, rows.start, rows.len())?)
}

/// The query rows and the window of a step's calls.
fn extent(calls: &[Call]) -> Result<(Range<usize>, Range<usize>)> {
    let (first, last) =
        (calls.first().context("a step without documents")?, calls.last().context("as above")?);
    Ok((first.q().start..last.q().end, first.k().start..last.k().end))
}

fn seqlens(lengths: impl Iterator<Item = usize>) -> Result<Tensor> {
    let lengths: Vec<u32> = lengths.map(|length| length as u32).collect();
    let count = lengths.len();
    Ok(Tensor::from_vec(lengths, count, &Device::Cpu)?)
}

fn forward_only(request: &Request) -> Result<Answer> {
    let tensors = tensors(request)?;
    let mut answer = Answer::default();
    let mut last = Vec::new();
    for packing in &request.packings {
        let (time, out) = timed(|| match request.way.as_str() {
            "fused_loop" => fused_loop(request, &tensors, packing),
            "fused_varlen" => fused_varlen(request, &tensors, packing),
            other => bail!("no way {other}"),
        })?;
        answer.forward_ms.push(time);
        last = out;
    }
    let out = Tensor::cat(&last, 0)?;
    request.write(&Results { out: numbers(&out)?, ..Results::default() })?;
    Ok(answer)
}

fn fused_loop(request: &Request, tensors: &Tensors, packing: &Packing) -> Result<Vec<Tensor>> {
    packing.steps.iter().flatten().map(|call| fused(request, tensors, call)).collect()
}

/// `[q_rows, heads, head_dim]`.
fn fused(request: &Request, tensors: &Tensors, call: &Call) -> Result<Tensor> {
    let batch =
        |tensor: &Tensor, range: Range<usize>| Ok::<_, anyhow::Error>(rows(tensor, range)?.unsqueeze(0)?);
    let (q, k, v) =
        (batch(&tensors.q, call.q())?, batch(&tensors.k, call.k())?, batch(&tensors.v, call.k())?);
    let mask = AttnMask::causal_with_offset(call.k().len() - call.q().len());
    let scale = request.scale() as f32;
    let out = match q.dtype() {
        DType::F32 => flash_attn::<f32>(&q, &k, &v, scale, mask, None, None)?,
        DType::F16 => flash_attn::<f16>(&q, &k, &v, scale, mask, None, None)?,
        _ => flash_attn::<bf16>(&q, &k, &v, scale, mask, None, None)?,
    };
    Ok(out.squeeze(0)?.transpose(0, 1)?)
}

fn fused_varlen(request: &Request, tensors: &Tensors, packing: &Packing) -> Result<Vec<Tensor>> {
    let step = |calls: &Vec<Call>| -> Result<Tensor> {
        let (q_rows, window) = extent(calls)?;
        let (q, k, v) =
            (rows(&tensors.q, q_rows)?, rows(&tensors.k, window.clone())?, rows(&tensors.v, window)?);
        let q_lens = seqlens(calls.iter().map(|call| call.q().len()))?;
        let k_lens = seqlens(calls.iter().map(|call| call.k().len()))?;
        let (max_q, max_k) = longest(calls);
        let scale = request.scale() as f32;
        Ok(flash_attn_varlen_cpu(&q, &k, &v, None, &q_lens, &k_lens, max_q, max_k, scale, true, None, None)?)
    };
    packing.steps.iter().map(step).collect()
}

fn longest(calls: &[Call]) -> (usize, usize) {
    let q = calls.iter().map(|call| call.q().len()).max();
    let k = calls.iter().map(|call| call.k().len()).max();
    (q.unwrap_or(0), k.unwrap_or(0))
}

/// A call's leaves, heads first, and what its backward starts from.
struct Leaves {
    call: Call,
    q: Var,
    k: Var,
    v: Var,
    dout: Tensor,
    /// 0 where a query sees a key, else minus infinity: `[q_rows, k_rows]`.
    mask: Tensor,
}

fn with_gradient(request: &Request) -> Result<Answer> {
    let tensors = tensors(request)?;
    let mut answer = Answer::default();
    let mut results = Results::default();
    for packing in &request.packings {
        let calls = packing.steps.iter().flatten();
        let calls: Vec<_> = calls.map(|call| leaves(&tensors, call)).collect::<Result<_>>()?;
        let (time, outs) =
            timed(|| calls.iter().map(|call| unfused(request, call)).collect::<Result<Vec<_>>>())?;
        answer.forward_ms.push(time);
        let (time, gradients) =
            timed(|| calls.iter().zip(&outs).map(|(call, out)| backward(call, out)).collect())?;
        answer.backward_ms.push(time);
        if request.results.is_some() {
            results = gather(request, &tensors, &calls, outs, gradients)?;
        }
    }
    request.write(&results)?;
    Ok(answer)
}

fn leaves(tensors: &Tensors, call: &Call) -> Result<Leaves> {
    let part = |tensor: &Tensor, range: Range<usize>| -> Result<Tensor> {
        Ok(rows(tensor, range)?.transpose(0, 1)?.contiguous()?)
    };
    Ok(Leaves {
        call: *call,
        q: Var::from_tensor(&part(&tensors.q, call.q())?)?,
        k: Var::from_tensor(&part(&tensors.k, call.k())?)?,
        v: Var::from_tensor(&part(&tensors.v, call.k())?)?,
        dout: part(&tensors.dout, call.q())?,
        mask: mask(call, tensors.q.dtype())?,
    })
}

fn mask(call: &Call, dtype: DType) -> Result<Tensor> {
    let (q_len, k_len) = (call.q().len(), call.k().len());
    let past = k_len - q_len;
    let hidden = |at: usize| if at % k_len > at / k_len + past { f32::NEG_INFINITY } else { 0.0 };
    let mask: Vec<f32> = (0..q_len * k_len).map(hidden).collect();
    Ok(Tensor::from_vec(mask, (q_len, k_len), &Device::Cpu)?.to_dtype(dtype)?)
}

/// Attention from matrix products and a softmax. The queries that share a K/V head are rows of one
/// product, so no K/V head is copied.
fn unfused(request: &Request, call: &Leaves) -> Result<Tensor> {
    let (heads, kv_heads, head_dim) = (request.heads, request.kv_heads, request.head_dim);
    let (q_len, k_len) = (call.call.q().len(), call.call.k().len());
    let grouped = heads / kv_heads * q_len;
    let q = (call.q.as_tensor() * request.scale())?.reshape((kv_heads, grouped, head_dim))?;
    let scores = q.matmul(&call.k.t()?)?.reshape((heads, q_len, k_len))?.broadcast_add(&call.mask)?;
    let weights = softmax(&scores, D::Minus1)?.reshape((kv_heads, grouped, k_len))?;
    Ok(weights.matmul(&call.v)?.reshape((heads, q_len, head_dim))?)
}

/// dq, dk, dv.
fn backward(call: &Leaves, out: &Tensor) -> Result<[Tensor; 3]> {
    let gradients = (out * &call.dout)?.sum_all()?.backward()?;
    let of = |leaf: &Var| gradients.get(leaf).cloned().context("the op cuts the gradient");
    Ok([of(&call.q)?, of(&call.k)?, of(&call.v)?])
}

/// Lays the calls' results into whole tensors.
fn gather(
    request: &Request,
    tensors: &Tensors,
    calls: &[Leaves],
    outs: Vec<Tensor>,
    gradients: Vec<[Tensor; 3]>,
) -> Result<Results> {
    let (row, kv_row) = (request.heads * request.head_dim, request.kv_heads * request.head_dim);
    let zeros = |tensor: &Tensor| vec![0.0; tensor.elem_count()];
    let mut results = Results {
        out: zeros(&tensors.q),
        dq: zeros(&tensors.q),
        dk: zeros(&tensors.k),
        dv: zeros(&tensors.v),
    };
    for ((leaves, out), [dq, dk, dv]) in calls.iter().zip(outs).zip(gradients) {
        let (q_begin, k_begin) = (leaves.call.q().start * row, leaves.call.k().start * kv_row);
        add(&mut results.out[q_begin..], &out)?;
        add(&mut results.dq[q_begin..], &dq)?;
        add(&mut results.dk[k_begin..], &dk)?;
        add(&mut results.dv[k_begin..], &dv)?;
    }
    Ok(results)
}

/// Adds a `[heads, rows, head_dim]` tensor to rows of a dense `[rows, heads, head_dim]` one.
fn add(sum: &mut [f32], part: &Tensor) -> Result<()> {
    let part = numbers(&part.transpose(0, 1)?.contiguous()?)?;
    sum.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
    Ok(())
}

fn numbers(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}
