//! What a model takes and gives: its inputs by name and type, and which of its outputs is the embedding. Pure functions over the
//! names, types and shapes that a runtime reports.

use crate::error::{Error, Result};

/// How token vectors become one vector of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Pooling {
    /// An output of rank 2 is taken as it is, one of rank 3 is averaged over the tokens.
    #[default]
    Auto,
    /// The model pools by itself: an output of rank 2.
    None,
    /// The mean over the tokens of an output of rank 3, padding left out (Reimers and Gurevych 2019, section 3).
    Mean,
    /// The first token of an output of rank 3.
    Cls,
}

impl Pooling {
    /// As the pipeline file writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::None => "none",
            Self::Mean => "mean",
            Self::Cls => "cls",
        }
    }
}

/// Element types that embedders use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    Int64,
    Float32,
    Float16,
    Other,
}

/// An input or output of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port {
    pub name: String,
    pub element: Element,
    /// The type as the runtime prints it.
    pub text: String,
    /// `None` where the port is no tensor, or its rank is not known.
    pub rank: Option<usize>,
}

/// What is fed into an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Feed {
    /// Token ids, 64-bit, rows x longest.
    Ids,
    /// 1 for a token, 0 for padding.
    Mask,
    /// The segment of a token: 0.
    Segment,
}

/// How the embedding is read from an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    Rows,
    Mean,
    Cls,
}

/// The output that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Output {
    pub name: String,
    /// Its place among the outputs.
    pub place: usize,
    pub reading: Reading,
    pub half: bool,
}

fn list(ports: &[Port]) -> String {
    ports.iter().map(|port| format!("{} {}", port.name, port.text)).collect::<Vec<_>>().join(", ")
}

/// What to feed into each input, in the model's order.
pub(super) fn feeds(inputs: &[Port]) -> Result<Vec<Feed>> {
    let mut feeds = Vec::new();
    for port in inputs {
        let feed = match port.name.as_str() {
            "input_ids" => Feed::Ids,
            "attention_mask" => Feed::Mask,
            "token_type_ids" => Feed::Segment,
            other => {
                let error =
                    Error::model(format!("the model needs an input that a text does not give input=`{other}` inputs=`{}`", list(inputs)));
                return Err(
                    error.hint("export the encoder alone, with inputs input_ids, attention_mask and, if it has one, token_type_ids")
                );
            }
        };
        if port.element != Element::Int64 || port.rank.is_some_and(|rank| rank != 2) {
            let error = Error::model(format!(
                "a model input has the wrong type input=`{}` found=`{}` needed=`int64, 2 axes`",
                port.name, port.text
            ));
            return Err(error.hint("export the model with 64-bit token ids of shape (batch, sequence)"));
        }
        feeds.push(feed);
    }
    if feeds.contains(&Feed::Ids) {
        return Ok(feeds);
    }
    Err(Error::model(format!("the model has no input for token ids missing=`input_ids` inputs=`{}`", list(inputs)))
        .hint("a text embedder takes input_ids and attention_mask; image and audio models are not supported here"))
}

/// Which output is the embedding, and how it is read.
pub(super) fn output(outputs: &[Port], pooling: Pooling) -> Result<Output> {
    let float = |port: &&Port| matches!(port.element, Element::Float32 | Element::Float16);
    let of_rank = |rank: usize| outputs.iter().filter(float).find(move |port| port.rank == Some(rank));
    // Beside the pooled output of a BERT, which is trained for another task, these names mean what they say.
    let named = || outputs.iter().filter(float).filter(|port| port.rank == Some(2)).find(|port| port.name.contains("embedding"));
    let found = match pooling {
        Pooling::None => named().or_else(|| of_rank(2)).map(|port| (port, Reading::Rows)),
        Pooling::Mean => of_rank(3).map(|port| (port, Reading::Mean)),
        Pooling::Cls => of_rank(3).map(|port| (port, Reading::Cls)),
        Pooling::Auto => {
            let rows = || of_rank(2).map(|port| (port, Reading::Rows));
            named().map(|port| (port, Reading::Rows)).or_else(|| of_rank(3).map(|port| (port, Reading::Mean))).or_else(rows)
        }
    };
    let needed = match pooling {
        Pooling::Auto => "float, 2 or 3 axes",
        Pooling::None => "float, 2 axes",
        Pooling::Mean | Pooling::Cls => "float, 3 axes",
    };
    let Some((port, reading)) = found else {
        let error = Error::model(format!(
            "no output of the model fits the pooling pooling=`{}` needed=`{needed}` outputs=`{}`",
            pooling.as_str(),
            list(outputs)
        ));
        return Err(
            error.hint("an output (batch, dimension) goes with `pooling: none`, one (batch, sequence, dimension) with `mean` or `cls`")
        );
    };
    let place = outputs.iter().position(|other| std::ptr::eq(other, port)).unwrap_or(0);
    Ok(Output { name: port.name.clone(), place, reading, half: port.element == Element::Float16 })
}

/// Reads the embeddings of a batch from an output of the given shape: rows x dimensions. `mask` is rows x width.
pub(super) fn pool(reading: Reading, shape: &[i64], values: &[f32], mask: &[i64], rows: usize) -> Result<Vec<f32>> {
    let width = mask.len().checked_div(rows).unwrap_or(0);
    let expected_rank = if reading == Reading::Rows { 2 } else { 3 };
    let sizes: Vec<usize> = shape.iter().filter_map(|size| usize::try_from(*size).ok()).collect();
    let fits = sizes.len() == expected_rank
        && sizes.first() == Some(&rows)
        && (reading == Reading::Rows || sizes.get(1) == Some(&width))
        && sizes.iter().product::<usize>() == values.len();
    let dimensions = sizes.last().copied().unwrap_or(0);
    if !fits || dimensions == 0 {
        let error = Error::model(format!("the model gave an output of another shape found=`{shape:?}` rows=`{rows}` tokens=`{width}`"));
        return Err(error.hint("the first axis must be the batch, the second of a token output the sequence"));
    }
    if reading == Reading::Rows {
        return Ok(values.to_vec());
    }
    let mut pooled = Vec::with_capacity(rows * dimensions);
    for (tokens, mask) in values.chunks_exact(width * dimensions).zip(mask.chunks_exact(width)) {
        match reading {
            Reading::Mean => {
                // Doubles, summed in the order of the tokens.
                let mut sums = vec![0.0_f64; dimensions];
                let mut count = 0.0_f64;
                for (token, _) in tokens.chunks_exact(dimensions).zip(mask).filter(|(_, mask)| **mask != 0) {
                    sums.iter_mut().zip(token).for_each(|(sum, value)| *sum += f64::from(*value));
                    count += 1.0;
                }
                pooled.extend(sums.iter().map(|sum| (sum / count.max(1.0)) as f32));
            }
            Reading::Cls | Reading::Rows => pooled.extend(tokens.iter().take(dimensions)),
        }
    }
    Ok(pooled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn port(name: &str, element: Element, rank: usize) -> Port {
        Port { name: name.into(), element, text: format!("{element:?} rank {rank}"), rank: Some(rank) }
    }

    fn int(name: &str) -> Port {
        port(name, Element::Int64, 2)
    }

    #[test]
    fn inputs_are_fed_by_name() {
        let inputs = [int("attention_mask"), int("input_ids"), int("token_type_ids")];
        assert_eq!(feeds(&inputs).unwrap(), [Feed::Mask, Feed::Ids, Feed::Segment]);
        assert_eq!(feeds(&[int("input_ids")]).unwrap(), [Feed::Ids]);
    }

    #[test]
    fn each_wrong_input_has_its_own_message() {
        let cases = [
            (vec![int("attention_mask")], "missing=`input_ids`"),
            (vec![], "missing=`input_ids`"),
            (vec![int("input_ids"), int("position_ids")], "input=`position_ids`"),
            (vec![port("input_ids", Element::Other, 2)], "wrong type input=`input_ids`"),
            (vec![port("input_ids", Element::Int64, 1)], "wrong type input=`input_ids`"),
            (vec![int("input_ids"), port("attention_mask", Element::Float32, 2)], "wrong type input=`attention_mask`"),
        ];
        for (inputs, expected) in cases {
            let error = feeds(&inputs).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert!(error.kind() == Kind::Model && error.hint_text().is_some());
        }
    }

    #[test]
    fn outputs_are_chosen_by_name_then_rank() {
        let tokens = port("last_hidden_state", Element::Float32, 3);
        let pooled = port("pooler_output", Element::Float32, 2);
        let sentence = port("sentence_embedding", Element::Float16, 2);
        let choose = |outputs: &[Port], pooling| output(outputs, pooling).map(|output| (output.name, output.reading));
        let bert = [tokens.clone(), pooled.clone()];
        assert_eq!(choose(&bert, Pooling::Auto).unwrap(), ("last_hidden_state".into(), Reading::Mean));
        assert_eq!(choose(&bert, Pooling::Cls).unwrap(), ("last_hidden_state".into(), Reading::Cls));
        assert_eq!(choose(&bert, Pooling::None).unwrap(), ("pooler_output".into(), Reading::Rows));
        let sbert = [tokens, sentence];
        assert_eq!(choose(&sbert, Pooling::Auto).unwrap(), ("sentence_embedding".into(), Reading::Rows));
        assert!(output(&sbert, Pooling::Auto).unwrap().half);
        assert_eq!(choose(&sbert, Pooling::Mean).unwrap(), ("last_hidden_state".into(), Reading::Mean));
        assert_eq!(choose(std::slice::from_ref(&pooled), Pooling::Auto).unwrap(), ("pooler_output".into(), Reading::Rows));
        for (outputs, pooling) in [
            (vec![pooled], Pooling::Mean),
            (vec![port("x", Element::Float32, 4)], Pooling::Auto),
            (vec![port("x", Element::Int64, 2)], Pooling::Auto),
            (vec![], Pooling::None),
        ] {
            let error = output(&outputs, pooling).unwrap_err();
            assert!(error.to_string().starts_with("no output of the model fits the pooling"), "{error}");
        }
    }

    #[test]
    fn padding_does_not_move_the_mean() {
        let values = [1.0, 2.0, 3.0, 4.0, 100.0, 100.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0];
        let mask = [1, 1, 0, 1, 1, 1];
        assert_eq!(pool(Reading::Mean, &[2, 3, 2], &values, &mask, 2).unwrap(), [2.0, 3.0, 7.0, 8.0]);
        assert_eq!(pool(Reading::Cls, &[2, 3, 2], &values, &mask, 2).unwrap(), [1.0, 2.0, 5.0, 6.0]);
        assert_eq!(pool(Reading::Rows, &[2, 6], &values, &mask, 2).unwrap(), values);
    }

    #[test]
    fn other_shapes_are_refused() {
        let values = [0.0; 12];
        let mask = [1; 6];
        for (reading, shape) in [
            (Reading::Rows, &[3, 4][..]),
            (Reading::Rows, &[2, 3, 2]),
            (Reading::Mean, &[2, 6]),
            (Reading::Mean, &[3, 2, 2]),
            (Reading::Cls, &[2, 2, 3]),
            (Reading::Rows, &[2, 0]),
            (Reading::Rows, &[2, -1]),
        ] {
            assert!(pool(reading, shape, &values, &mask, 2).is_err(), "{shape:?}");
        }
    }
}
