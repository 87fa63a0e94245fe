//! The table that a projected prefix comes to, for adapters: training computes it by torch.

use super::state::{Layout, PREFIX_EMBEDDING, PREFIX_INNER, PREFIX_OUTER};

/// A prefix's table.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// `[P, 2·L·H]`.
    pub shape: [usize; 2],
    /// Its elements, row-major.
    pub values: Vec<f32>,
}

/// The table that the network of a projected prefix makes; `None` where the layout has no such network.
/// Its last bits are those of the machine's tanh.
pub fn flattened(layout: &Layout, values: &[f32]) -> Option<Table> {
    let part = |name: &str| Some(&values[layout.tensor(name)?.range.clone()]);
    let [length, _] = layout.tensor(PREFIX_EMBEDDING)?.shape.as_slice().try_into().ok()?;
    let [inner, inner_bias] = PREFIX_INNER.map(part);
    let [outer, outer_bias] = PREFIX_OUTER.map(part);
    let mut hidden = linear(part(PREFIX_EMBEDDING)?, length, inner?, inner_bias?); // [P, M]
    hidden.iter_mut().for_each(|value| *value = value.tanh());
    let table = linear(&hidden, length, outer?, outer_bias?);
    Some(Table { shape: [length, outer_bias?.len()], values: table })
}

/// So many rows through a linear map of weight `[outputs, inputs]`.
fn linear(input: &[f32], rows: usize, weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let (inputs, outputs) = (input.len() / rows, bias.len());
    let mut out = vec![0.0; rows * outputs];
    // Each row of the weight is read once: it is the largest by far.
    for (at, (weight, bias)) in weight.chunks(inputs).zip(bias).enumerate() {
        for (row, input) in input.chunks(inputs).enumerate() {
            let product: f32 = input.iter().zip(weight).map(|(a, b)| a * b).sum();
            out[row * outputs + at] = product + bias;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numerics::state::{HEAD_BIAS, HEAD_WEIGHT};

    #[test]
    fn a_table_comes_out_of_its_network() {
        let layout = Layout::place(
            vec![
                (HEAD_BIAS, vec![1]),
                (HEAD_WEIGHT, vec![1, 2]),
                (PREFIX_EMBEDDING, vec![2, 2]),
                (PREFIX_INNER[0], vec![1, 2]),
                (PREFIX_INNER[1], vec![1]),
                (PREFIX_OUTER[0], vec![4, 1]),
                (PREFIX_OUTER[1], vec![4]),
            ],
            Vec::new(),
        );
        let mut values = vec![9.0; layout.len()];
        for (name, part) in [
            (PREFIX_EMBEDDING, &[1.0, 2.0, 0.0, 1.0][..]),
            (PREFIX_INNER[0], &[0.5, -0.25]),
            (PREFIX_INNER[1], &[0.25]),
            (PREFIX_OUTER[0], &[1.0, 2.0, 0.0, -1.0]),
            (PREFIX_OUTER[1], &[0.0, 1.0, 2.0, 0.0]),
        ] {
            values[layout.tensor(name).unwrap().range.clone()].copy_from_slice(part);
        }
        // 0.5 - 0.5 + 0.25, and -0.25 + 0.25.
        let inner = 0.25_f32.tanh();
        let table = flattened(&layout, &values).unwrap();
        assert_eq!(table.shape, [2, 4]);
        let expected = [inner, 1.0 + 2.0 * inner, 2.0, -inner, 0.0, 1.0, 2.0, 0.0];
        assert_eq!(table.values, expected);
        assert_eq!(flattened(&Layout::new(2, 1, 2, 1), &[0.0; 11]), None);
    }
}
