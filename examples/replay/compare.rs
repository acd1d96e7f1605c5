//! How far results are from those that a file expects.

use crate::common::tensors::Stored;
use crate::run::Output;
use anyhow::{Context, Result, bail, ensure};
use microseq::dev::{Distance, Quantity, tolerance};
use microseq::{DType, bf16, f16};
use safetensors::{Dtype, SafeTensors};

/// A result beside what was expected.
pub(crate) struct Comparison {
    pub(crate) name: &'static str,
    pub(crate) distance: Distance,
    pub(crate) tolerance: f64,
}

impl Comparison {
    pub(crate) fn passes(&self) -> bool {
        self.distance.within(self.tolerance)
    }
}

/// Compares every result; `dtype` is the type of the case, which decides the tolerances.
pub(crate) fn with_file(outputs: &[Output], bytes: &[u8], dtype: DType) -> Result<Vec<Comparison>> {
    let file = SafeTensors::deserialize(bytes)?;
    let compare = |output: &Output| -> Result<Comparison> {
        let expected = file.tensor(output.name)?;
        let (name, shape) = (output.name, expected.shape());
        ensure!(shape == output.shape, "{name} is expected with shape {shape:?}, here {:?}", output.shape);
        let given = widen(output.dtype, &output.bytes)?;
        let expected = widen(expected.dtype(), expected.data())?;
        let tolerance = tolerance(quantity(name), dtype);
        Ok(Comparison { name, distance: Distance::between(&given, &expected), tolerance })
    };
    outputs.iter().map(|output| compare(output).context(output.name)).collect()
}

fn quantity(name: &str) -> Quantity {
    match name {
        "out" => Quantity::Out,
        "lse" => Quantity::Lse,
        _ => Quantity::Gradient,
    }
}

fn widen(dtype: Dtype, bytes: &[u8]) -> Result<Vec<f64>> {
    Ok(match dtype {
        Dtype::F32 => f32::from_bytes(bytes).into_iter().map(f64::from).collect(),
        Dtype::F16 => f16::from_bytes(bytes).into_iter().map(f64::from).collect(),
        Dtype::BF16 => bf16::from_bytes(bytes).into_iter().map(f64::from).collect(),
        other => bail!("is {other}, expected F32, F16 or BF16"),
    })
}
