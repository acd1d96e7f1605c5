//! microseq, asked like its rivals. Its measuring code is that of its own benches.
//!
//! The forward pass of a packing that differs from the last one includes planning and preparation;
//! the backward pass always includes clearing the gradient store, since what a rival's autograd
//! allocates is part of its time too.

#[path = "../../../../measure/mod.rs"]
mod measure;

use anyhow::{Result, bail};
use measure::layer::{Cut, Layer, Operands};
use measure::peak::Instruction;
use microseq::cpu::{Cpu, Isa};
use microseq::dev::{Harness, HostHarness, oracle};
use microseq::{Attention, DType, Element, Plan, bf16, f16};
use microseq_rivals::{Answer, Hello, Packing, Request, Results, serve, timed};

fn main() -> Result<()> {
    let threads = rayon::current_num_threads();
    let device = Cpu::with_threads(threads)?.with_isa(Isa::from_environment()?)?;
    let harness = HostHarness::new(device);
    let version = format!("this tree, {}", harness.device().isa());
    let hello = Hello { name: "microseq", version, threads, ways: &["microseq", "peak"] };
    serve(&hello, |request| match (request.way.as_str(), dtype(&request.dtype)?) {
        ("peak", dtype) => peak(harness.device(), dtype),
        (_, DType::F32) => run::<f32>(&harness, request),
        (_, DType::F16) => run::<f16>(&harness, request),
        (_, DType::Bf16) => run::<bf16>(&harness, request),
    })
}

fn dtype(name: &str) -> Result<DType> {
    Ok(match name {
        "f32" => DType::F32,
        "f16" => DType::F16,
        "bf16" => DType::Bf16,
        other => bail!("no type {other}"),
    })
}

fn peak(device: &Cpu, dtype: DType) -> Result<Answer> {
    let instruction = Instruction::of_cpu(device.isa(), dtype);
    Ok(Answer {
        peak_gflops: Some(instruction.peak_gflops(device.threads())?),
        peak_instruction: Some(instruction.to_string()),
        ..Answer::default()
    })
}

fn run<E: Element>(harness: &HostHarness<Cpu>, request: &Request) -> Result<Answer> {
    let attention = Attention::new(request.heads, request.kv_heads, request.head_dim)?;
    let given = request.operands()?;
    let kv = oracle::pack(&given.k, &given.v, request.kv_heads, request.head_dim);
    let operands = Operands { q: rounded::<E>(&given.q), kv: rounded(&kv), dout: rounded(&given.dout) };
    let mut layer = Layer::<_, E>::new(harness, attention, given.tokens, &operands);
    let mut answer = Answer::default();
    let mut last: Option<(&Packing, Cut<'_, _>)> = None;
    for packing in &request.packings {
        let (prepare, cut) = match last.take() {
            Some((same, cut)) if same == packing => (0.0, cut),
            _ => timed(|| prepared::<E>(&mut layer, packing, request))?,
        };
        let (forward, ()) = timed(|| layer.forward(&cut))?;
        let (backward, ()) = timed(|| {
            layer.dkv.fill(0.0);
            layer.backward(&cut)
        })?;
        answer.forward_ms.push(prepare + forward);
        answer.backward_ms.push(backward);
        last = Some((packing, cut));
    }
    request.write(&results(&layer))?;
    Ok(answer)
}

fn prepared<'p, E: Element>(
    layer: &mut Layer<'_, HostHarness<Cpu>, E>,
    packing: &'p Packing,
    request: &Request,
) -> Result<Cut<'p, HostHarness<Cpu>>> {
    let plan = Plan::new(&packing.lengths, request.micro_sequence_length)?;
    let cut = Cut::new::<E>(layer.harness(), plan, layer.attention)?;
    layer.reserve(&cut);
    Ok(cut)
}

fn results<E: Element>(layer: &Layer<'_, HostHarness<Cpu>, E>) -> Results {
    let attention = layer.attention;
    let (dk, dv) = oracle::unpack(&layer.dkv, attention.kv_heads(), attention.head_dim());
    Results { out: widened(&layer.out), dq: widened(&layer.dq), dk, dv }
}

fn rounded<E: Element>(numbers: &[f32]) -> Vec<E> {
    numbers.iter().map(|&x| E::from_f32(x)).collect()
}

fn widened<E: Element>(elements: &[E]) -> Vec<f32> {
    elements.iter().map(|x| x.to_f32()).collect()
}
