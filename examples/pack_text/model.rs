//! The part of a model around attention, as small as can be: embeddings and seeded projections.

use microseq::dev::Random;
use microseq::{Attention, Element};
use std::ops::Range;

/// Elements of a byte's embedding.
const WIDTH: usize = 64;

/// The layers' projections of a text.
///
/// A byte is embedded without its position, so what a projection makes of it is one of 256 rows,
/// computed beforehand.
pub(crate) struct Model<'t, E> {
    tokens: &'t [u8],
    layers: Vec<Tables<E>>,
}

struct Tables<E> {
    q: Table<E>,
    kv: Table<E>,
    /// By the byte that follows, as the gradient of a next-byte loss would be.
    dout: Table<E>,
}

/// A row for each byte.
struct Table<E> {
    elements: Vec<E>,
    columns: usize,
}

impl<'t, E: Element> Model<'t, E> {
    pub(crate) fn new(tokens: &'t [u8], attention: &Attention, layers: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let embeddings: Vec<f32> = random.elements(256 * WIDTH);
        let q_columns = attention.heads() * attention.head_dim();
        let kv_columns = 2 * attention.kv_heads() * attention.head_dim();
        let mut tables = || Tables {
            q: Table::projected(&embeddings, q_columns, &mut random),
            kv: Table::projected(&embeddings, kv_columns, &mut random),
            dout: Table::projected(&embeddings, q_columns, &mut random),
        };
        Self { tokens, layers: (0..layers).map(|_| tables()).collect() }
    }

    pub(crate) fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Queries of some rows, `[rows, heads, head_dim]`.
    pub(crate) fn q(&self, layer: usize, rows: Range<usize>) -> Vec<E> {
        self.layers[layer].q.rows(self.tokens[rows].iter().copied())
    }

    /// Keys and values of some rows, `[rows, 2 * kv_heads, head_dim]`, keys first.
    pub(crate) fn kv(&self, layer: usize, rows: Range<usize>) -> Vec<E> {
        self.layers[layer].kv.rows(self.tokens[rows].iter().copied())
    }

    /// Gradient of the attention's output at some rows, `[rows, heads, head_dim]`.
    pub(crate) fn dout(&self, layer: usize, rows: Range<usize>) -> Vec<E> {
        let next = |row| self.tokens.get(row + 1).copied().unwrap_or(0);
        self.layers[layer].dout.rows(rows.map(next))
    }
}

impl<E: Element> Table<E> {
    /// Every embedding times a seeded matrix, scaled so that products have variance 1.
    fn projected(embeddings: &[f32], columns: usize, random: &mut Random) -> Self {
        let weights: Vec<f32> = random.elements(WIDTH * columns);
        let scale = 1.0 / (WIDTH as f32).sqrt();
        let project = |embedding: &[f32], column: usize| {
            let column = weights[column..].iter().step_by(columns);
            E::from_f32(scale * embedding.iter().zip(column).map(|(e, w)| e * w).sum::<f32>())
        };
        let embeddings = embeddings.chunks_exact(WIDTH);
        let elements = embeddings.flat_map(|e| (0..columns).map(move |c| project(e, c)));
        Self { elements: elements.collect(), columns }
    }

    fn rows(&self, bytes: impl Iterator<Item = u8>) -> Vec<E> {
        let begins = bytes.map(|byte| usize::from(byte) * self.columns);
        begins.flat_map(|begin| &self.elements[begin..begin + self.columns]).copied().collect()
    }
}
