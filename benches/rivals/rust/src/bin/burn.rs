//! burn's ways on the CPU: its flex backend, built with its AVX-512 path.
//!
//! - `attention`: its attention op, a call for each document, without autodiff.
//! - `autodiff`: the same with autodiff.
//!
//! Its op takes as many K/V heads as query heads, so K/V heads are repeated, as its users do. Favours:
//! leaves and masks are made beforehand, and adding up the gradients of K and V over steps is not
//! timed.

use anyhow::{Context, Result, bail};
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Bool, DType, Device, Tensor, TensorData};
use core::ops::Range;
use microseq_rivals::{Answer, Call, Hello, Operands, Packing, Request, Results, serve, timed};

fn main() -> Result<()> {
    let hello = Hello {
        name: "burn",
        version: "0.22.1 (flex, x86-v4)".into(),
        threads: rayon::current_num_threads(),
        ways: &["attention", "autodiff"],
    };
    serve(&hello, |request| {
        let device = match request.way.as_str() {
            "attention" => Device::flex(),
            "autodiff" => Device::flex().autodiff(),
            other => bail!("no way {other}"),
        };
        run(request, &device)
    })
}

/// A call's leaves, `[1, heads, rows, head_dim]`, and its mask where it is not the plain causal one.
struct Leaves {
    call: Call,
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    dout: Tensor<4>,
    mask: Option<Tensor<4, Bool>>,
}

fn run(request: &Request, device: &Device) -> Result<Answer> {
    let given = request.operands()?;
    let gradient = request.way == "autodiff";
    let mut answer = Answer::default();
    let mut results = Results::default();
    for packing in &request.packings {
        let calls = leaves(request, &given, packing, device)?;
        let (time, outs) = timed(|| Ok(calls.iter().map(|call| forward(request, call)).collect::<Vec<_>>()))?;
        answer.forward_ms.push(time);
        let mut gradients = Vec::new();
        if gradient {
            let (time, given) =
                timed(|| calls.iter().zip(&outs).map(|(call, out)| backward(call, out)).collect())?;
            answer.backward_ms.push(time);
            gradients = given;
        }
        if request.results.is_some() {
            results = gather(request, given.tokens, &calls, outs, gradients)?;
        }
    }
    request.write(&results)?;
    Ok(answer)
}

fn dtype(name: &str) -> Result<DType> {
    Ok(match name {
        "f32" => DType::F32,
        "f16" => DType::F16,
        "bf16" => DType::BF16,
        other => bail!("no type {other}"),
    })
}

fn leaves(request: &Request, given: &Operands, packing: &Packing, device: &Device) -> Result<Vec<Leaves>> {
    let dtype = dtype(&request.dtype)?;
    let gradient = request.way == "autodiff";
    let leaf = |numbers: &[f32], heads: usize, rows: Range<usize>| {
        let tensor = head_major(numbers, heads, request.head_dim, rows, device).cast(dtype);
        if gradient { tensor.detach().require_grad() } else { tensor }
    };
    let make = |&call: &Call| Leaves {
        call,
        q: leaf(&given.q, request.heads, call.q()),
        k: leaf(&given.k, request.kv_heads, call.k()),
        v: leaf(&given.v, request.kv_heads, call.k()),
        dout: head_major(&given.dout, request.heads, request.head_dim, call.q(), device).cast(dtype),
        mask: (call.q().len() != call.k().len()).then(|| hidden(&call, request.heads, device)),
    };
    Ok(packing.steps.iter().flatten().map(make).collect())
}

/// Rows of a dense `[tokens, heads, head_dim]` as `[1, heads, rows, head_dim]`.
fn head_major(
    numbers: &[f32],
    heads: usize,
    head_dim: usize,
    rows: Range<usize>,
    device: &Device,
) -> Tensor<4> {
    let row = heads * head_dim;
    let part = numbers[rows.start * row..rows.end * row].to_vec();
    let data = TensorData::new(part, [1, rows.len(), heads, head_dim]);
    let tensor = Tensor::<4>::from_data(data, device).swap_dims(1, 2);
    // Contiguous, so that no pass pays for the change of layout.
    tensor.clone().zeros_like() + tensor
}

/// True where a query does not see a key; the diagonal ends at the last row of both.
fn hidden(call: &Call, heads: usize, device: &Device) -> Tensor<4, Bool> {
    let (q_len, k_len) = (call.q().len(), call.k().len());
    let past = k_len - q_len;
    let one: Vec<bool> = (0..q_len * k_len).map(|at| at % k_len > at / k_len + past).collect();
    let data = TensorData::new(one, [1, 1, q_len, k_len]);
    Tensor::<4, Bool>::from_data(data, device).expand([1, heads, q_len, k_len])
}

fn forward(request: &Request, call: &Leaves) -> Tensor<4> {
    let group = request.heads / request.kv_heads;
    let options = AttentionModuleOptions { scale: None, softcap: None, is_causal: call.mask.is_none() };
    let (k, v) = (repeat(&call.k, group), repeat(&call.v, group));
    attention(call.q.clone(), k, v, call.mask.clone(), None, options)
}

/// Each K/V head as often as query heads share it.
fn repeat(heads: &Tensor<4>, group: usize) -> Tensor<4> {
    let [_, kv_heads, rows, head_dim] = heads.dims();
    let grouped = heads.clone().reshape([kv_heads, 1, rows, head_dim]);
    grouped.expand([kv_heads, group, rows, head_dim]).reshape([1, kv_heads * group, rows, head_dim])
}

fn backward(call: &Leaves, out: &Tensor<4>) -> Result<[Tensor<4>; 3]> {
    let gradients = (out.clone() * call.dout.clone()).sum().backward();
    let of = |leaf: &Tensor<4>| leaf.grad(&gradients).context("the op cuts the gradient");
    Ok([of(&call.q)?, of(&call.k)?, of(&call.v)?])
}

/// Lays the calls' results into whole tensors.
fn gather(
    request: &Request,
    tokens: usize,
    calls: &[Leaves],
    outs: Vec<Tensor<4>>,
    gradients: Vec<[Tensor<4>; 3]>,
) -> Result<Results> {
    let (row, kv_row) = (request.heads * request.head_dim, request.kv_heads * request.head_dim);
    let mut results = Results { out: vec![0.0; tokens * row], ..Results::default() };
    for (call, out) in calls.iter().zip(outs) {
        add(&mut results.out[call.call.q().start * row..], out)?;
    }
    if !gradients.is_empty() {
        results.dq = vec![0.0; tokens * row];
        results.dk = vec![0.0; tokens * kv_row];
        results.dv = vec![0.0; tokens * kv_row];
    }
    for (call, [dq, dk, dv]) in calls.iter().zip(gradients) {
        add(&mut results.dq[call.call.q().start * row..], dq)?;
        add(&mut results.dk[call.call.k().start * kv_row..], dk)?;
        add(&mut results.dv[call.call.k().start * kv_row..], dv)?;
    }
    Ok(results)
}

fn add(sum: &mut [f32], part: Tensor<4>) -> Result<()> {
    let part = part.swap_dims(1, 2).cast(DType::F32).into_data();
    let part: Vec<f32> = part.try_to_vec().map_err(|error| anyhow::anyhow!("{error:?}"))?;
    sum.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
    Ok(())
}
