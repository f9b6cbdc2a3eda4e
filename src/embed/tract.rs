//! The door to tract, which runs the built-in model in pure Rust. It is called directly and not through `ort`, because `ort` has
//! one backend a process and the two sum in another order: a plan that also names a model file would give the built-in model's
//! vectors other bits (measured: the last ones, in half of the shapes tried).

use std::sync::Arc;

use tract_onnx::prelude::{Datum, DatumType, Framework, InferenceModelExt, IntoRunnable, Tensor, TractResult, TypedRunnableModel};

use super::signature::{Element, Port};

/// The version that Cargo.toml pins: a part of what names the vectors.
pub(super) const VERSION: &str = "0.23.9";

/// A graph ready to run, by any number of threads at once.
#[derive(Debug, Clone)]
pub(super) struct Graph {
    plan: Arc<TypedRunnableModel>,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
}

impl Graph {
    /// Reads an ONNX model.
    pub(super) fn read(mut model: &[u8]) -> TractResult<Self> {
        let model = tract_onnx::onnx().model_for_read(&mut model)?;
        let names = |outlets: &[tract_onnx::prelude::OutletId]| -> Vec<String> {
            let name = |outlet| model.outlet_label(outlet).map_or_else(|| model.node(outlet.node).name.clone(), str::to_owned);
            outlets.iter().map(|outlet| name(*outlet)).collect()
        };
        let (input_names, output_names) = (names(model.input_outlets()?), names(model.output_outlets()?));
        let model = model.into_optimized()?;
        let ports = |names: Vec<String>, facts: Vec<(DatumType, usize)>| -> Vec<Port> {
            names.into_iter().zip(facts).map(|(name, (kind, rank))| port(name, kind, rank)).collect()
        };
        let inputs =
            (0..input_names.len()).map(|at| model.input_fact(at).map(|fact| (fact.datum_type, fact.rank()))).collect::<TractResult<_>>()?;
        let outputs = (0..output_names.len())
            .map(|at| model.output_fact(at).map(|fact| (fact.datum_type, fact.rank())))
            .collect::<TractResult<_>>()?;
        Ok(Self { inputs: ports(input_names, inputs), outputs: ports(output_names, outputs), plan: model.into_runnable()? })
    }

    /// Runs the graph; `inputs` are rows x width, in the order of the graph. Gives shape and values of output `output`.
    pub(super) fn run(&self, inputs: &[&[i64]], rows: usize, width: usize, output: usize) -> TractResult<(Vec<i64>, Vec<f32>)> {
        let inputs = inputs.iter().map(|values| Ok(Tensor::from_shape(&[rows, width], values)?.into())).collect::<TractResult<_>>()?;
        let mut outputs = self.plan.run(inputs)?;
        let made = outputs.swap_remove(output);
        let made = made.cast_to::<f32>()?;
        let shape = made.shape().iter().map(|size| *size as i64).collect();
        Ok((shape, made.try_as_plain_ram()?.as_slice::<f32>()?.to_vec()))
    }
}

fn port(name: String, kind: DatumType, rank: usize) -> Port {
    let element = match kind {
        kind if kind == i64::datum_type() => Element::Int64,
        kind if kind == f32::datum_type() => Element::Float32,
        _ => Element::Other,
    };
    Port { name, element, text: format!("{kind:?} of {rank} axes"), rank: Some(rank) }
}
