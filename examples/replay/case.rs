//! Reading a case: which form it has, its tensors, and whether their shapes fit each other.

use crate::common::tensors::Stored;
use crate::error::CaseError;
use crate::settings::{self, Metadata};
use microseq::{Attention, Element};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

/// A `[rows, heads, head_dim]` shape.
type Shape3 = [usize; 3];

/// The bytes of a case, and what its header says.
pub(crate) struct File<'a> {
    tensors: SafeTensors<'a>,
    pub(crate) metadata: Metadata,
}

/// A case whose shapes fit each other.
pub(crate) struct Case<E> {
    pub(crate) attention: Attention,
    pub(crate) q: Tensor<E>,
    pub(crate) dout: Option<Vec<E>>,
    pub(crate) form: Form<E>,
}

/// Keys and values and where the documents lie.
pub(crate) enum Form<E> {
    /// A packed sequence.
    Sequence { lengths: Vec<u32>, kv: Tensor<E> },
    /// A plain varlen call.
    Op { cu_seqlens_q: Vec<i32>, cu_seqlens_k: Vec<i32>, k: Tensor<E>, v: Tensor<E> },
}

/// A dense tensor.
pub(crate) struct Tensor<E> {
    pub(crate) shape: Shape3,
    pub(crate) elements: Vec<E>,
}

impl<'a> File<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, CaseError> {
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        Ok(Self { tensors: SafeTensors::deserialize(bytes)?, metadata })
    }

    /// The type of q, which all others but `cu_seqlens` must have too.
    pub(crate) fn dtype(&self) -> Result<Dtype, CaseError> {
        match self.required("q", self.form()?)?.dtype() {
            dtype @ (Dtype::F32 | Dtype::F16 | Dtype::BF16) => Ok(dtype),
            given => Err(CaseError::Type { tensor: "q", expected: "F32, F16 or BF16".into(), given }),
        }
    }

    pub(crate) fn case<E: Element + Stored>(&self) -> Result<Case<E>, CaseError> {
        let form = self.form()?;
        let q = self.rows::<E>("q", form)?;
        let dout = match self.optional("dout") {
            Some(_) => Some(self.rows_like("dout", form, &q.shape, "q")?.elements),
            None => None,
        };
        let (kv_heads, form) = match form {
            SEQUENCE => self.sequence(&q.shape)?,
            _ => self.op(&q.shape)?,
        };
        let [_, heads, head_dim] = q.shape;
        let attention = settings::attention(&self.metadata, heads, kv_heads, head_dim)?;
        Ok(Case { attention, q, dout, form })
    }

    fn sequence<E: Element + Stored>(&self, q: &Shape3) -> Result<(usize, Form<E>), CaseError> {
        let kv = self.rows::<E>("kv", SEQUENCE)?;
        let [_, heads, head_dim] = kv.shape;
        check_head_dim("kv", head_dim, q)?;
        check_shape("kv", kv.shape, [q[0], heads, head_dim], "q")?;
        if !heads.is_multiple_of(2) {
            return Err(CaseError::OddKvHeads { heads });
        }
        let lengths = settings::lengths(&self.metadata)?.ok_or(CaseError::MissingLengths)?;
        Ok((heads / 2, Form::Sequence { lengths, kv }))
    }

    fn op<E: Element + Stored>(&self, q: &Shape3) -> Result<(usize, Form<E>), CaseError> {
        if settings::lengths(&self.metadata)?.is_some() {
            return Err(CaseError::UnusedLengths);
        }
        let k = self.rows::<E>("k", OP)?;
        let v = self.rows_like("v", OP, &k.shape, "k")?;
        check_head_dim("k", k.shape[2], q)?;
        let (cu_seqlens_q, cu_seqlens_k) = (self.list("cu_seqlens_q")?, self.list("cu_seqlens_k")?);
        Ok((k.shape[1], Form::Op { cu_seqlens_q, cu_seqlens_k, k, v }))
    }

    fn form(&self) -> Result<&'static str, CaseError> {
        let of_op = ["k", "v", "cu_seqlens_q", "cu_seqlens_k"];
        let of_op = of_op.into_iter().find(|tensor| self.optional(tensor).is_some());
        match (self.optional("kv"), of_op) {
            (Some(_), None) => Ok(SEQUENCE),
            (None, Some(_)) => Ok(OP),
            (Some(_), Some(tensor)) => Err(CaseError::TwoForms { tensor }),
            (None, None) => Err(CaseError::NoForm),
        }
    }

    fn optional(&self, tensor: &str) -> Option<TensorView<'a>> {
        self.tensors.tensor(tensor).ok()
    }

    fn required(&self, tensor: &'static str, form: &'static str) -> Result<TensorView<'a>, CaseError> {
        self.optional(tensor).ok_or(CaseError::MissingTensor { tensor, form })
    }

    fn rows<E: Stored>(&self, tensor: &'static str, form: &'static str) -> Result<Tensor<E>, CaseError> {
        let view = self.required(tensor, form)?;
        let Ok(shape) = view.shape().try_into() else {
            let expected = "[rows, heads, head_dim]";
            return Err(CaseError::Dimensions { tensor, expected, given: view.shape().into() });
        };
        Ok(Tensor { shape, elements: elements(tensor, &view)? })
    }

    fn rows_like<E: Stored>(
        &self,
        tensor: &'static str,
        form: &'static str,
        like: &Shape3,
        with: &'static str,
    ) -> Result<Tensor<E>, CaseError> {
        let rows = self.rows(tensor, form)?;
        check_shape(tensor, rows.shape, *like, with)?;
        Ok(rows)
    }

    fn list(&self, tensor: &'static str) -> Result<Vec<i32>, CaseError> {
        let view = self.required(tensor, OP)?;
        if view.shape().len() != 1 {
            let expected = "[documents + 1]";
            return Err(CaseError::Dimensions { tensor, expected, given: view.shape().into() });
        }
        elements(tensor, &view)
    }
}

const SEQUENCE: &str = "sequence";
const OP: &str = "op";

fn elements<E: Stored>(tensor: &'static str, view: &TensorView<'_>) -> Result<Vec<E>, CaseError> {
    if view.dtype() != E::STORED {
        return Err(CaseError::Type { tensor, expected: E::STORED.to_string(), given: view.dtype() });
    }
    Ok(E::from_bytes(view.data()))
}

fn check_shape(
    tensor: &'static str,
    given: Shape3,
    expected: Shape3,
    with: &'static str,
) -> Result<(), CaseError> {
    if given != expected {
        return Err(CaseError::Shape { tensor, expected: expected.into(), given: given.into(), with });
    }
    Ok(())
}

fn check_head_dim(tensor: &'static str, given: usize, &[_, _, expected]: &Shape3) -> Result<(), CaseError> {
    if given != expected {
        return Err(CaseError::HeadDim { tensor, expected, given });
    }
    Ok(())
}
