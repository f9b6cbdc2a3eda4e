//! What is embedded with: the built-in model, or a model file and a tokenizer file that the user names. Files are checked before a
//! runtime sees them: size, pinned SHA-256, and a walk over the ONNX protobuf that refuses external data and foreign operators,
//! because both would let a model file reach outside itself.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::limits::{MAX_MODEL_BYTES, MAX_TOKENIZER_BYTES};

/// Graphs nested in one another (a graph as an attribute of a node).
const MAX_GRAPH_DEPTH: usize = 16;
/// Nodes of a model, nested graphs and functions included.
const MAX_NODES: usize = 200_000;

const BUILTIN_MODEL: &[u8] = include_bytes!("builtin/model.onnx");
const BUILTIN_TOKENIZER: &[u8] = include_bytes!("builtin/tokenizer.json");

/// Operator domains that ONNX Runtime itself implements, as far as embedders use them.
const DOMAINS: [&str; 3] = ["", "ai.onnx", "com.microsoft"];

/// Operators that only models with layers of weights have; tract does not run such graphs with dynamic shapes reliably.
const LAYERED: [&str; 10] = [
    "MatMul",
    "Gemm",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "DynamicQuantizeMatMul",
    "QLinearMatMul",
    "LayerNormalization",
    "Attention",
    "Softmax",
];

/// Where model and tokenizer come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// The static embedder inside the binary.
    Builtin,
    /// An ONNX file and a tokenizer file.
    File {
        /// The ONNX model.
        model: PathBuf,
        /// The `tokenizer.json`.
        tokenizer: PathBuf,
        /// What the model's SHA-256 must be, as 64 hexadecimal digits.
        sha256: Option<String>,
        /// What the tokenizer's SHA-256 must be, as 64 hexadecimal digits.
        tokenizer_sha256: Option<String>,
    },
}

/// The bytes of a model and its tokenizer, checked.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    model: Cow<'static, [u8]>,
    tokenizer: Cow<'static, [u8]>,
    /// As messages name it.
    name: String,
    builtin: bool,
    layered: bool,
}

impl ModelFiles {
    /// The model inside the binary.
    #[must_use]
    pub fn builtin() -> Self {
        Self {
            model: Cow::Borrowed(BUILTIN_MODEL),
            tokenizer: Cow::Borrowed(BUILTIN_TOKENIZER),
            name: "builtin".into(),
            builtin: true,
            layered: false,
        }
    }

    /// Reads and checks what `source` names: sizes, pins and the model's protobuf. `read` is called with a path and the most bytes
    /// that the file may have, for files are opened in `storage` only; an error of it is passed on with a hint.
    ///
    /// # Errors
    /// [`Kind::Model`](crate::error::Kind::Model): a file is missing, too large, not what its pin says, not an ONNX model, or
    /// one that names external data or operators of other domains.
    pub fn load(source: &ModelSource, mut read: impl FnMut(&Path, u64) -> Result<Vec<u8>>) -> Result<Self> {
        let ModelSource::File { model, tokenizer, sha256, tokenizer_sha256 } = source else {
            return Ok(Self::builtin());
        };
        let mut part = |path: &Path, limit: u64, pin: Option<&String>, what: &str| -> Result<Vec<u8>> {
            let bytes = read(path, limit).map_err(|error| unreadable(path, what, error))?;
            check_size(path, bytes.len() as u64, limit, what)?;
            check_pin(path, &bytes, pin, what)?;
            Ok(bytes)
        };
        let model_bytes = part(model, MAX_MODEL_BYTES, sha256.as_ref(), "model")?;
        let tokenizer_bytes = part(tokenizer, MAX_TOKENIZER_BYTES, tokenizer_sha256.as_ref(), "tokenizer")?;
        let graph = preflight(&model_bytes).map_err(|error| error.context(format!("cannot use the model path=`{}`", model.display())))?;
        Ok(Self {
            model: Cow::Owned(model_bytes),
            tokenizer: Cow::Owned(tokenizer_bytes),
            name: model.display().to_string(),
            builtin: false,
            layered: graph.layered,
        })
    }

    /// The ONNX model.
    #[must_use]
    pub fn model(&self) -> &[u8] {
        &self.model
    }

    /// The `tokenizer.json`.
    #[must_use]
    pub fn tokenizer(&self) -> &[u8] {
        &self.tokenizer
    }

    /// The model as messages name it: `builtin` or its path.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Is it the model inside the binary?
    #[must_use]
    pub fn is_builtin(&self) -> bool {
        self.builtin
    }

    /// Has the graph layers of weights (a transformer, say), which only ONNX Runtime runs?
    #[must_use]
    pub fn is_layered(&self) -> bool {
        self.layered
    }
}

fn unreadable(path: &Path, what: &str, error: Error) -> Error {
    let hint = error.hint_text().map_or_else(|| format!("paths are relative to the pipeline file; check `{what}` there"), str::to_owned);
    Error::model(format!("cannot read the {what} path=`{}`", path.display())).caused_by(error).hint(hint)
}

/// Refuses a file above its limit.
///
/// # Errors
/// [`Kind::Model`](crate::error::Kind::Model), naming the size and the limit.
pub fn check_size(path: &Path, bytes: u64, limit: u64, what: &str) -> Result<()> {
    if bytes <= limit {
        return Ok(());
    }
    let error = Error::model(format!("{what} file is too large path=`{}` bytes=`{bytes}` limit=`{limit}`", path.display()));
    Err(error.hint("use a smaller or quantised (int8) export of the model"))
}

fn check_pin(path: &Path, bytes: &[u8], pin: Option<&String>, what: &str) -> Result<()> {
    let Some(pin) = pin else { return Ok(()) };
    let found = hex(&Sha256::digest(bytes));
    if found.eq_ignore_ascii_case(pin.trim()) {
        return Ok(());
    }
    let error = Error::model(format!("{what} is not the pinned file path=`{}` expected=`{pin}` found=`{found}`", path.display()));
    Err(error.hint("get the file that was pinned, or, if the new one is meant, write its SHA-256 into the pipeline file"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).filter_map(|digit| char::from_digit(u32::from(digit), 16)).collect()
}

/// What the walk over a model's protobuf found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Preflight {
    /// Has it operators of layered models?
    layered: bool,
}

/// Walks the protobuf of an ONNX model (onnx.proto, `ModelProto`) without interpreting its tensors.
fn preflight(model: &[u8]) -> Result<Preflight> {
    let mut walk = Walk { nodes: 0, layered: false, graphs: 0 };
    walk.model(model)?;
    if walk.graphs == 0 || walk.nodes == 0 {
        return Err(not_onnx("there is no graph in it"));
    }
    Ok(Preflight { layered: walk.layered })
}

fn not_onnx(detail: &str) -> Error {
    Error::model(format!("not an ONNX model: {detail}"))
        .hint("`model` must name the .onnx file itself, not a folder, an archive, a Git LFS pointer or weights of another format")
}

struct Walk {
    nodes: usize,
    graphs: usize,
    layered: bool,
}

impl Walk {
    fn model(&mut self, bytes: &[u8]) -> Result<()> {
        for field in Fields(bytes) {
            match field? {
                (7, Value::Bytes(graph)) => self.graph(graph, 0)?,
                // TrainingInfoProto: initialization and algorithm are graphs.
                (20, Value::Bytes(training)) => {
                    for field in Fields(training) {
                        if let (1 | 2, Value::Bytes(graph)) = field? {
                            self.graph(graph, 0)?;
                        }
                    }
                }
                // FunctionProto: its nodes, and its domain.
                (25, Value::Bytes(function)) => {
                    domain(function, 10)?;
                    for field in Fields(function) {
                        if let (7, Value::Bytes(node)) = field? {
                            self.node(node, 0)?;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn graph(&mut self, bytes: &[u8], depth: usize) -> Result<()> {
        if depth > MAX_GRAPH_DEPTH {
            return Err(Error::model(format!("graphs are nested too deeply limit=`{MAX_GRAPH_DEPTH}`")));
        }
        self.graphs += 1;
        for field in Fields(bytes) {
            match field? {
                (1, Value::Bytes(node)) => self.node(node, depth)?,
                (5, Value::Bytes(initializer)) => tensor(initializer)?,
                (15, Value::Bytes(sparse)) => sparse_tensor(sparse)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn node(&mut self, bytes: &[u8], depth: usize) -> Result<()> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(Error::model(format!("model has too many nodes limit=`{MAX_NODES}`")));
        }
        domain(bytes, 7)?;
        for field in Fields(bytes) {
            match field? {
                (4, Value::Bytes(operator)) => self.layered |= LAYERED.iter().any(|name| name.as_bytes() == operator),
                (5, Value::Bytes(attribute)) => self.attribute(attribute, depth)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn attribute(&mut self, bytes: &[u8], depth: usize) -> Result<()> {
        for field in Fields(bytes) {
            match field? {
                (5 | 10, Value::Bytes(value)) => tensor(value)?,
                (6 | 11, Value::Bytes(graph)) => self.graph(graph, depth + 1)?,
                (22 | 23, Value::Bytes(value)) => sparse_tensor(value)?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Refuses a `TensorProto` whose values lie in another file.
fn tensor(bytes: &[u8]) -> Result<()> {
    for field in Fields(bytes) {
        // 13: external_data; 14: data_location, of which 1 is EXTERNAL.
        if let (13, _) | (14, Value::Number(1)) = field? {
            return Err(Error::model("the model keeps weights in other files (external data)")
                .hint("save it as one file: onnx.save_model(model, path, save_as_external_data=False)"));
        }
    }
    Ok(())
}

/// The two tensors of a `SparseTensorProto`.
fn sparse_tensor(bytes: &[u8]) -> Result<()> {
    for field in Fields(bytes) {
        if let (1 | 2, Value::Bytes(value)) = field? {
            tensor(value)?;
        }
    }
    Ok(())
}

/// Refuses a message whose text field `number` names a domain of operators that is not the standard's or ONNX Runtime's own.
fn domain(bytes: &[u8], number: u64) -> Result<()> {
    for field in Fields(bytes) {
        if let (found, Value::Bytes(name)) = field?
            && found == number
            && !DOMAINS.iter().any(|known| known.as_bytes() == name)
        {
            let name: String = String::from_utf8_lossy(name).chars().take(80).collect();
            return Err(Error::model(format!("the model uses operators of a foreign domain domain=`{name}`"))
                .hint("export it with standard ONNX operators only; custom operator libraries are never loaded"));
        }
    }
    Ok(())
}

/// A field's value as the wire holds it.
#[derive(Debug, Clone, Copy)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// The fields of one protobuf message.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn varint(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.skip(8)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                let (bytes, rest) = self.0.split_at_checked(length)?;
                self.0 = rest;
                Value::Bytes(bytes)
            }
            5 => self.skip(4)?,
            _ => return None,
        };
        (tag >> 3 != 0).then_some((tag >> 3, value))
    }

    fn skip(&mut self, length: usize) -> Option<Value<'a>> {
        self.0 = self.0.get(length..)?;
        Some(Value::Fixed)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or_else(|| not_onnx("its protobuf is cut off or damaged")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use proptest::prelude::*;

    fn field(number: u64, bytes: &[u8]) -> Vec<u8> {
        let mut out = varint(number << 3 | 2);
        out.extend(varint(bytes.len() as u64));
        out.extend(bytes);
        out
    }

    fn varint(mut number: u64) -> Vec<u8> {
        let mut out = Vec::new();
        while number >= 0x80 {
            out.push(number as u8 | 0x80);
            number >>= 7;
        }
        out.push(number as u8);
        out
    }

    fn node(operator: &str, domain: &str, attribute: &[u8]) -> Vec<u8> {
        field(1, &[field(4, operator.as_bytes()), field(7, domain.as_bytes()), field(5, attribute)].concat())
    }

    fn model(graph: &[Vec<u8>]) -> Vec<u8> {
        [vec![8, 8], field(7, &graph.concat())].concat()
    }

    fn message(result: Result<Preflight>) -> String {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), Kind::Model);
        assert!(error.hint_text().is_some() || error.to_string().contains("limit="), "{error}");
        error.to_string()
    }

    #[test]
    fn the_built_in_model_passes_its_own_checks() {
        assert!(preflight(BUILTIN_MODEL).is_ok());
        assert!(!ModelFiles::builtin().is_layered());
    }

    #[test]
    fn layers_are_seen() {
        assert!(!preflight(&model(&[node("Gather", "", &[])])).unwrap().layered);
        assert!(preflight(&model(&[node("Gather", "", &[]), node("MatMul", "", &[])])).unwrap().layered);
        // What quantisers write.
        for operator in ["Attention", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits"] {
            assert!(preflight(&model(&[node(operator, "com.microsoft", &[])])).unwrap().layered);
        }
    }

    #[test]
    fn external_data_is_refused_wherever_it_stands() {
        let external = [vec![8, 1], field(13, &field(1, b"location"))].concat();
        let by_location = vec![14 << 3, 1];
        for tensor in [external, by_location] {
            let places = [
                field(5, &tensor),
                field(15, &field(1, &tensor)),
                node("Constant", "", &field(5, &tensor)),
                node("Constant", "", &field(22, &field(2, &tensor))),
                node("If", "", &field(6, &field(5, &tensor))),
            ];
            for place in places {
                let found = message(preflight(&model(&[node("Gather", "", &[]), place])));
                assert!(found.contains("external data"), "{found}");
            }
        }
        assert!(preflight(&model(&[node("Gather", "", &[]), field(5, &[14 << 3, 0])])).is_ok());
    }

    #[test]
    fn foreign_operators_are_refused() {
        let nested = node("If", "", &field(6, &node("Gather", "my.ops", &[])));
        for place in [node("Gather", "my.ops", &[]), nested] {
            let found = message(preflight(&model(&[place])));
            assert!(found.contains("domain=`my.ops`"), "{found}");
        }
        let function = [model(&[node("Gather", "", &[])]), field(25, &field(10, b"my.ops"))].concat();
        assert!(message(preflight(&function)).contains("foreign domain"));
        // Tools import domains that no node uses.
        let opset = [model(&[node("Gather", "", &[])]), field(8, &field(1, b"ai.onnx.ml"))].concat();
        assert!(preflight(&opset).is_ok());
    }

    #[test]
    fn what_is_no_model_is_refused() {
        for bytes in [&b""[..], b"version https://git-lfs.github.com/spec/v1\noid sha256:1", b"PK\x03\x04", &[8, 8]] {
            assert!(message(preflight(bytes)).starts_with("not an ONNX model"), "{bytes:?}");
        }
        let whole = model(&[node("Gather", "", &[])]);
        for end in 1..whole.len() {
            assert!(preflight(&whole[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn deep_nesting_ends() {
        let mut graph = node("Gather", "", &[]);
        for _ in 0..=MAX_GRAPH_DEPTH + 1 {
            graph = node("If", "", &field(6, &graph));
        }
        assert!(message(preflight(&model(&[graph]))).contains("nested too deeply"));
    }

    fn source(sha256: Option<&str>) -> ModelSource {
        ModelSource::File { model: "m.onnx".into(), tokenizer: "t.json".into(), sha256: sha256.map(str::to_owned), tokenizer_sha256: None }
    }

    #[test]
    fn pins_sizes_and_missing_files_have_their_own_messages() {
        let good = model(&[node("Gather", "", &[])]);
        let read = |path: &Path, _: u64| Ok(if path.ends_with("m.onnx") { good.clone() } else { b"{}".to_vec() });
        let pin = hex(&Sha256::digest(&good));
        assert!(ModelFiles::load(&source(Some(&pin.to_uppercase())), read).is_ok());
        let error = ModelFiles::load(&source(Some(&"0".repeat(64))), read).unwrap_err();
        assert!(error.to_string().contains(&format!("found=`{pin}`")), "{error}");

        let error = ModelFiles::load(&source(None), |_, _| Err(Error::storage("no such file"))).unwrap_err();
        assert_eq!((error.kind(), error.to_string()), (Kind::Model, "cannot read the model path=`m.onnx`".into()));
        assert!(error.report().contains("caused by: no such file"));

        let error = check_size(Path::new("m.onnx"), MAX_MODEL_BYTES + 1, MAX_MODEL_BYTES, "model").unwrap_err();
        assert!(error.to_string().contains("too large"));
    }

    #[test]
    fn sha256_is_the_standard_one() {
        assert_eq!(hex(&Sha256::digest(b"abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _answer = preflight(&bytes);
        }

        #[test]
        fn a_damaged_model_ends_in_an_answer(at in 0_usize..3_000, byte in any::<u8>()) {
            let mut bytes = BUILTIN_MODEL[BUILTIN_MODEL.len() - 3_000..].to_vec();
            bytes[at] = byte;
            let _answer = preflight(&bytes);
        }
    }
}
