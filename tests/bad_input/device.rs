//! Devices that cannot be, and metadata of another device.

use crate::common::cpus;
use crate::kind::{Kind, assert_pattern, pattern};
use crate::operands::{Dims, problem};
use microseq::cpu::{Cpu, CpuError, Isa};
use microseq::{Backward, DType, Device, Forward, Pass};

pub(crate) fn kinds() -> Vec<Kind> {
    let unknown = CpuError::UnknownIsa { name: "sse9".into() };
    let mut kinds = vec![
        Kind::new("a device of no threads", Cpu::with_threads(0), CpuError::ZeroThreads),
        Kind::new(
            "a device of too many threads",
            Cpu::with_threads(usize::MAX),
            CpuError::TooManyThreads { threads: usize::MAX, limit: 4096 },
        ),
        Kind::new("an unknown instruction set", "sse9".parse::<Isa>(), unknown),
    ];
    let [portable, best] = [Isa::Portable, Isa::best()];
    if portable != best {
        kinds.push(another_isa(Pass::Forward, portable, best));
        kinds.push(another_isa(Pass::Backward, best, portable));
    }
    for isa in Isa::ALL.into_iter().filter(|isa| !isa.available()) {
        let name = format!("{isa}, which this machine lacks");
        kinds.push(Kind::new(name, Cpu::new().with_isa(isa), CpuError::IsaUnavailable { isa }));
    }
    kinds
}

/// A call prepared for one instruction set on a device of another.
fn another_isa(pass: Pass, prepared: Isa, device: Isa) -> Kind {
    let name = format!("{pass:?}: prepared for {prepared}, run on {device}");
    let result = run(&name, pass, prepared, device);
    Kind::new(name, result, CpuError::PreparedForAnotherIsa { prepared, device })
}

fn run(name: &str, pass: Pass, prepared: Isa, device: Isa) -> Result<(), CpuError> {
    let problem = problem(DType::F32);
    let shape = problem.shape();
    let prepared = cpus::cpu(prepared, 1).prepare(&problem)?;
    let cpu = cpus::cpu(device, 1);
    let q = Dims { rows: shape.q_rows, heads: shape.heads, head_dim: shape.head_dim };
    let kv = Dims { rows: shape.k_rows, heads: shape.kv_heads, ..q };
    let lse = Dims { head_dim: 1, ..q };
    let (read, mut scratch) = (vec![0.0f32; 1024], vec![0; 1 << 20]);
    let (mut first, mut second) = (pattern::<f32>(1024), pattern::<f32>(1024));
    let result = match pass {
        Pass::Forward => {
            let (out, lse) = (q.write(&mut first), lse.write(&mut second));
            let operands = Forward { q: q.read(&read), kv: kv.read_kv(&read), out, lse };
            cpu.forward(&prepared, operands, &mut scratch)
        }
        Pass::Backward => {
            let operands = Backward {
                q: q.read(&read),
                kv: kv.read_kv(&read),
                out: q.read(&read),
                lse: lse.read(&read),
                dout: q.read(&read),
                dq: q.write(&mut first),
                dkv: kv.write_kv(&mut second),
            };
            cpu.backward(&prepared, operands, &mut scratch)
        }
    };
    assert_pattern(name, &first);
    assert_pattern(name, &second);
    result
}
