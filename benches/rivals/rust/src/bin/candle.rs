//! candle's ways on the CPU.
//!
//! - `fused_loop`: its fused op, a call for each document. It gives no gradient.
//! - `fused_varlen`: its fused op over packed documents, a call for each step. No gradient either.
//! - `unfused`: its op over packed documents from matrix products and a softmax, with autograd.
//!
//! Favours: leaves are laid out beforehand, and adding up the gradients of K and V over steps is not
//! timed.

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::attention::cpu_flash::varlen::flash_attn_varlen_cpu;
use candle_nn::attention::{AttnMask, flash_attn, flash_attn_varlen_unfused};
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

/// A step's leaves and what its backward starts from.
struct Leaves<'a> {
    calls: &'a [Call],
    q: Var,
    k: Var,
    v: Var,
    dout: Tensor,
}

fn with_gradient(request: &Request) -> Result<Answer> {
    let tensors = tensors(request)?;
    let mut answer = Answer::default();
    let mut results = Results::default();
    for packing in &request.packings {
        let steps: Vec<_> =
            packing.steps.iter().map(|calls| leaves(&tensors, calls)).collect::<Result<_>>()?;
        let (time, outs) =
            timed(|| steps.iter().map(|step| unfused(request, step)).collect::<Result<Vec<_>>>())?;
        answer.forward_ms.push(time);
        let (time, gradients) = timed(|| backward(&steps, &outs))?;
        answer.backward_ms.push(time);
        if request.results.is_some() {
            results = gather(&tensors, &steps, &outs, &gradients)?;
        }
    }
    request.write(&results)?;
    Ok(answer)
}

fn leaves<'a>(tensors: &Tensors, calls: &'a Vec<Call>) -> Result<Leaves<'a>> {
    let (q, window) = extent(calls)?;
    let leaf = |tensor: &Tensor, range: Range<usize>| {
        Ok::<_, anyhow::Error>(Var::from_tensor(&rows(tensor, range)?)?)
    };
    Ok(Leaves {
        calls,
        q: leaf(&tensors.q, q.clone())?,
        k: leaf(&tensors.k, window.clone())?,
        v: leaf(&tensors.v, window)?,
        dout: rows(&tensors.dout, q)?,
    })
}

fn unfused(request: &Request, step: &Leaves<'_>) -> Result<Tensor> {
    let q_lens = seqlens(step.calls.iter().map(|call| call.q().len()))?;
    let k_lens = seqlens(step.calls.iter().map(|call| call.k().len()))?;
    let (max_q, max_k) = longest(step.calls);
    let (q, k, v) = (&step.q, &step.k, &step.v);
    let scale = request.scale() as f32;
    Ok(flash_attn_varlen_unfused(q, k, v, None, &q_lens, &k_lens, max_q, max_k, scale, true, None, None)?)
}

/// dq, dk, dv of each step.
fn backward(steps: &[Leaves<'_>], outs: &[Tensor]) -> Result<Vec<[Tensor; 3]>> {
    let step = |(step, out): (&Leaves<'_>, &Tensor)| -> Result<[Tensor; 3]> {
        let gradients = (out * &step.dout)?.sum_all()?.backward()?;
        let of = |leaf: &Var| gradients.get(leaf).cloned().context("the op cuts the gradient");
        Ok([of(&step.q)?, of(&step.k)?, of(&step.v)?])
    };
    steps.iter().zip(outs).map(step).collect()
}

/// Lays the steps' results into whole tensors.
fn gather(
    tensors: &Tensors,
    steps: &[Leaves<'_>],
    outs: &[Tensor],
    gradients: &[[Tensor; 3]],
) -> Result<Results> {
    let dqs: Vec<_> = gradients.iter().map(|[dq, ..]| dq).collect();
    let mut results = Results {
        out: numbers(&Tensor::cat(outs, 0)?)?,
        dq: numbers(&Tensor::cat(&dqs, 0)?)?,
        dk: vec![0.0; tensors.k.elem_count()],
        dv: vec![0.0; tensors.v.elem_count()],
    };
    let kv_row = tensors.k.elem_count() / tensors.k.dim(0)?;
    for (step, [_, dk, dv]) in steps.iter().zip(gradients) {
        let begin = extent(step.calls)?.1.start * kv_row;
        let add = |sum: &mut [f32], part: Vec<f32>| sum.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
        add(&mut results.dk[begin..], numbers(dk)?);
        add(&mut results.dv[begin..], numbers(dv)?);
    }
    Ok(results)
}

fn numbers(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}
