//! `label_consistency_screen`: drops nothing, and reports which labels mean something else in one source than in another (B2NERD).
//!
//! See [`crate::text::label_conflict`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, BinaryBuilder, BooleanArray, Float64Array, Int64Array, LargeListArray, RecordBatch, StringArray,
    StructArray, UInt64Array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field as ArrowField, Fields as ArrowFields, Int64Type, Schema, SchemaRef};
use futures::future::BoxFuture;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::carry::together;
use super::columns::{Drops, cast_strictly, column, label_hash, numbers, row_column, row_schema};
use super::draw::{self, Draw};
use super::policy;
use super::seam::{
    Barrier, NamedRows, Narrow, Needs, Outcome, ROW_ID, Roles, RowLocal, ScanContext, Shape as StageShape, Stage, Table, TakeRows,
};
use crate::dataset::schema::{is_text, text_values};
use crate::declare::shape::{defaulted, required};
use crate::declare::{Field, Fields, Presence, Shape};
use crate::diagnostic::Diagnostics;
use crate::engine::{Engine, Reservation, RowStream, next, rows_of, spawn};
use crate::error::{Context as _, Error, Kind, Result};
use crate::ids::{RowId, StageId};
use crate::random::Random;
use crate::text::label_conflict::{self, Annotated, Class, Counts, Span, Texts};

/// `label_consistency_screen: {entities, column, sample_entities, sample_texts, flag_ratio, seed}`.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelConsistencyScreenConfig {
    /// The column of entities: a list of structs.
    pub entities: String,
    /// The column of the texts in which they stand; default `text`.
    pub column: String,
    /// Names of one label that are taken from a source at most; default 2000.
    pub sample_entities: usize,
    /// Texts of a source in which names are looked for, at most; default 2000.
    pub sample_texts: usize,
    /// The share of names that are labelled otherwise from which a label is flagged; default 0.3.
    pub flag_ratio: f64,
    /// Seed of the draws; default 1234.
    pub seed: u64,
}

/// The keys of `label_consistency_screen`.
pub const FIELDS: &[Field] = &[
    required(
        "entities",
        Shape::Text,
        "The column of annotations: a list of structs with `type` (text), `start` and `end` (characters of the text from 0, the end not included), and, if it is there, `name` or `text`: what stands between them. A null list is a row that nobody annotated.",
    ),
    defaulted("column", Shape::Text, Presence::Text("text"), "The column of the texts in which the entities stand."),
    defaulted(
        "sample_entities",
        Shape::Int { min: 1, max: 10_000_000 },
        Presence::Int(2000),
        "Distinct names of a label that are taken from each source at most, by a draw.",
    ),
    defaulted(
        "sample_texts",
        Shape::Int { min: 1, max: 10_000_000 },
        Presence::Int(2000),
        "Texts of each source that names of the others are looked for in at most, by a draw; rows that nobody annotated are none of them.",
    ),
    defaulted(
        "flag_ratio",
        Shape::Float { min: 0.0, max: 1.0, exclusive: false },
        Presence::Float(0.3),
        "A label is flagged where at least this share of the names that were found is labelled otherwise.",
    ),
    policy::SEED,
];

impl LabelConsistencyScreenConfig {
    /// Reads the checked map.
    #[must_use]
    pub fn read(fields: &Fields<'_>, _: &mut Diagnostics) -> Self {
        let size = |key| fields.int(key).and_then(|size| usize::try_from(size).ok()).unwrap_or(1);
        Self {
            entities: fields.text("entities").unwrap_or_default(),
            column: fields.text("column").unwrap_or_default(),
            sample_entities: size("sample_entities"),
            sample_texts: size("sample_texts"),
            flag_ratio: fields.float("flag_ratio").unwrap_or_default(),
            seed: policy::read_seed(fields),
        }
    }

    /// All that can change the stage's result, with defaults filled in and keys sorted.
    #[must_use]
    pub fn canonical(&self) -> Value {
        json!({
            "column": self.column,
            "entities": self.entities,
            "flag_ratio": self.flag_ratio,
            "sample_entities": self.sample_entities,
            "sample_texts": self.sample_texts,
            "seed": self.seed,
        })
    }
}

impl Stage for LabelConsistencyScreenConfig {
    fn kind(&self) -> &'static str {
        "label_consistency_screen"
    }

    fn version(&self) -> u32 {
        1
    }

    fn canonical(&self) -> Value {
        Self::canonical(self)
    }

    fn scanned(&self) -> Option<Value> {
        Some(json!({"column": self.column, "entities": self.entities, "seed": self.seed}))
    }

    fn shape(&self) -> StageShape {
        StageShape::Barrier
    }

    fn needs(&self, roles: &Roles) -> Needs {
        let mut needs = draw::needs(roles);
        needs.columns.extend([self.column.clone(), self.entities.clone()]);
        needs.text.push(self.column.clone());
        needs.apart.push(self.entities.clone());
        needs
    }

    fn row_local(&self, cx: &ScanContext<'_>) -> Result<Option<Box<dyn RowLocal>>> {
        Ok(Some(together(Box::new(Draw::try_new(cx, self.seed)?), Box::new(Marks::try_new(self, cx)?))))
    }

    fn named(&self) -> Vec<&str> {
        vec![&self.column, &self.entities]
    }

    fn named_rows(&self, cx: &ScanContext<'_>) -> Result<Option<Box<dyn RowLocal>>> {
        Ok(Some(Box::new(AsTheyAre::try_new(self, cx)?)))
    }

    fn compares_sources(&self) -> bool {
        true
    }

    fn barrier(&self, stage: &StageId) -> Option<Box<dyn Barrier>> {
        Some(Box::new(LabelConsistencyScreen { config: self.clone(), random: Random::new(self.seed, stage.as_str()) }))
    }
}

/// A part of a text that is an entity, in bytes.
struct Entity<'a> {
    /// The label, in lower case.
    kind: String,
    start: usize,
    name: &'a str,
}

impl Entity<'_> {
    /// The number of the label, and the draw of the name under it.
    fn drawn(&self, random: &Random) -> (u64, u64) {
        let label = label_hash(&self.kind);
        (label, random.draw(&[&label.to_be_bytes(), self.name.as_bytes()].concat()))
    }

    fn span(&self) -> Span {
        Span { start: self.start, end: self.start + self.name.len(), label: label_hash(&self.kind) }
    }
}

/// The entities of a batch.
struct Entities {
    lists: LargeListArray,
    kinds: StringArray,
    starts: Int64Array,
    ends: Int64Array,
    /// What `name` and `text` say, where they are there.
    names: Vec<StringArray>,
}

/// The fields of an entity that may hold the part of the text that it is.
const NAMES: [&str; 2] = ["name", "text"];

/// Whether entities can be read of a column of this type.
fn are_entities(kind: &DataType) -> bool {
    let (DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _)) = kind else { return false };
    let DataType::Struct(fields) = item.data_type() else { return false };
    let is = |name: &str, of: fn(&DataType) -> bool| fields.iter().any(|field| field.name() == name && of(field.data_type()));
    let texts = NAMES.iter().all(|name| fields.iter().all(|field| field.name() != name || is_text(field.data_type())));
    is("type", is_text) && is("start", DataType::is_integer) && is("end", DataType::is_integer) && texts
}

impl Entities {
    fn try_new(array: &ArrayRef) -> Result<Self> {
        let (DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _)) = array.data_type() else {
            return Err(Error::internal("entities that are no lists"));
        };
        let lists = cast_strictly(array, &DataType::LargeList(Arc::clone(item)))?.as_list::<i64>().clone();
        let structs: &StructArray = lists.values().as_struct_opt().ok_or_else(|| Error::internal("entities that are no structs"))?;
        let part = |name: &str, to: &DataType| -> Result<ArrayRef> {
            let part = structs.column_by_name(name).ok_or_else(|| Error::internal(format!("entities lack a field field=`{name}`")))?;
            // A number that is none of `to` is no place in a text: null.
            cast(part, to).context(Kind::Input, || format!("entities cannot be read field=`{name}`"))
        };
        let given = NAMES.iter().filter(|name| structs.column_by_name(name).is_some());
        let names = given.map(|name| Ok(part(name, &DataType::Utf8)?.as_string().clone())).collect::<Result<_>>()?;
        let (kinds, starts, ends) = (part("type", &DataType::Utf8)?, part("start", &DataType::Int64)?, part("end", &DataType::Int64)?);
        let number = |array: &ArrayRef| array.as_primitive::<Int64Type>().clone();
        Ok(Self { kinds: kinds.as_string().clone(), starts: number(&starts), ends: number(&ends), names, lists })
    }

    /// The sound ones of a row, whose text is this, and how many are not: of no label, not inside of the text, or of another name than
    /// stands there. `None` where the row is not annotated.
    fn of<'a>(&self, row: usize, text: &'a str) -> Option<(Vec<Entity<'a>>, u64)> {
        if self.lists.is_null(row) {
            return None;
        }
        let ends = self.lists.value_offsets();
        let places = ends[row] as usize..ends[row + 1] as usize;
        // Where each character begins, and where the last one ends; in ASCII that is its number.
        let bounds: Option<Vec<usize>> =
            (!text.is_ascii() && !places.is_empty()).then(|| text.char_indices().map(|(at, _)| at).chain([text.len()]).collect());
        let byte = |character: i64| {
            let character = usize::try_from(character).ok()?;
            bounds.as_ref().map_or(Some(character), |bounds| bounds.get(character).copied())
        };
        let one = |place: usize| {
            let known = self.kinds.is_valid(place) && self.starts.is_valid(place) && self.ends.is_valid(place);
            let kind = known.then(|| self.kinds.value(place).to_lowercase()).filter(|kind| !kind.is_empty())?;
            let (start, end) = (byte(self.starts.value(place))?, byte(self.ends.value(place))?);
            let name = text.get(start..end).filter(|name| !name.is_empty())?;
            let told = self.names.iter().all(|names| names.is_null(place) || names.value(place) == name);
            told.then_some(Entity { kind, start, name })
        };
        let found: Vec<Entity<'a>> = places.clone().filter_map(one).collect();
        let unsound = (places.len() - found.len()) as u64;
        Some((found, unsound))
    }
}

/// The narrow column of marks: for each sound entity of a row the number of its label and the draw of its name, eight bytes each. Null
/// where nobody annotated the row.
const MARKS: &str = "marks";
/// The narrow column of how many entities of a row are not sound.
const UNSOUND: &str = "unsound";
/// Bytes of a mark.
const MARK_BYTES: usize = 16;

/// The places of the text and of the entities.
fn both(config: &LabelConsistencyScreenConfig, cx: &ScanContext<'_>) -> Result<(usize, usize)> {
    let (text, entities) = (column(cx, &config.column)?, column(cx, &config.entities)?);
    let field = cx.schema.field(entities);
    if !are_entities(field.data_type()) {
        let message = format!("a column holds no entities stage=`{}` column=`{}` type=`{}`", cx.stage, field.name(), field.data_type());
        return Err(Error::input(message).hint("name a list of structs of `type` (text), `start` and `end` (whole numbers)"));
    }
    Ok((text, entities))
}

/// Makes [`MARKS`] and [`UNSOUND`].
struct Marks {
    random: Random,
    text: usize,
    entities: usize,
    row: usize,
    output: SchemaRef,
}

impl Marks {
    fn try_new(config: &LabelConsistencyScreenConfig, cx: &ScanContext<'_>) -> Result<Self> {
        let (text, entities) = both(config, cx)?;
        let fields = vec![ArrowField::new(MARKS, DataType::Binary, true), ArrowField::new(UNSOUND, DataType::UInt64, false)];
        let random = Random::new(config.seed, cx.stage.as_str());
        Ok(Self { random, text, entities, row: row_column(cx)?, output: row_schema(&fields.into()) })
    }
}

impl RowLocal for Marks {
    fn makes(&self) -> ArrowFields {
        self.output.fields().iter().skip(1).cloned().collect()
    }

    fn apply(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let texts = text_values(batch.column(self.text).as_ref())?;
        let entities = Entities::try_new(batch.column(self.entities))?;
        let (mut marks, mut unsound) = (BinaryBuilder::new(), Vec::with_capacity(batch.num_rows()));
        let mut bytes: Vec<u8> = Vec::new();
        for (row, text) in texts.iter().enumerate() {
            let Some((found, bad)) = text.and_then(|text| entities.of(row, text)) else {
                marks.append_null();
                unsound.push(0);
                continue;
            };
            bytes.clear();
            for entity in found {
                let (label, draw) = entity.drawn(&self.random);
                bytes.extend(label.to_be_bytes());
                bytes.extend(draw.to_be_bytes());
            }
            marks.append_value(&bytes);
            unsound.push(bad);
        }
        let columns: Vec<ArrayRef> =
            vec![Arc::clone(batch.column(self.row)), Arc::new(marks.finish()), Arc::new(UInt64Array::from(unsound))];
        RecordBatch::try_new(Arc::clone(&self.output), columns).context(Kind::Internal, || "cannot build marks".into())
    }
}

/// Gives the text and the entities of rows that the barrier names as they are.
struct AsTheyAre {
    columns: [usize; 3],
    output: SchemaRef,
}

impl AsTheyAre {
    fn try_new(config: &LabelConsistencyScreenConfig, cx: &ScanContext<'_>) -> Result<Self> {
        let (text, entities) = both(config, cx)?;
        let field = |place: usize, name: &str| cx.schema.field(place).clone().with_name(name);
        let fields: ArrowFields = vec![field(text, "text"), field(entities, "entities")].into();
        Ok(Self { columns: [row_column(cx)?, text, entities], output: row_schema(&fields) })
    }
}

impl RowLocal for AsTheyAre {
    fn makes(&self) -> ArrowFields {
        self.output.fields().iter().skip(1).cloned().collect()
    }

    fn apply(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns = self.columns.iter().map(|place| Arc::clone(batch.column(*place))).collect();
        RecordBatch::try_new(Arc::clone(&self.output), columns).context(Kind::Internal, || "cannot give named rows".into())
    }
}

/// Bytes of a node of a map that holds two numbers, with the room that its neighbours leave.
const NODE_BYTES: usize = 64;
/// Bytes of a map of names that is nearly empty: its first node has room for several.
const LABEL_BYTES: usize = 320;

/// The rows and names of lowest draw, while rows go by.
struct Sampled {
    entities: usize,
    texts: usize,
    /// The source of each shard.
    sources: Vec<usize>,
    /// For each source the draws and the rows of its texts.
    rows: Vec<BTreeSet<(u64, u64)>>,
    /// For each source and label the draws of its names, and of each the first row that has it.
    names: BTreeMap<(usize, u64), BTreeMap<u64, u64>>,
    not_annotated: u64,
    unsound: u64,
    memory: Reservation,
}

impl Sampled {
    fn read(&mut self, batch: &RecordBatch) -> Result<()> {
        let (ids, draws, unsound) = (numbers(batch, ROW_ID)?, numbers(batch, draw::COLUMN)?, numbers(batch, UNSOUND)?);
        let marks = batch.column_by_name(MARKS).and_then(|column| column.as_binary_opt::<i32>());
        let marks = marks.ok_or_else(|| Error::internal("a label screen was given no marks"))?;
        for (row, id) in ids.values().iter().enumerate() {
            let source = self.sources.get(RowId::from_bits(*id).shard().ordinal()).copied();
            let source = source.ok_or_else(|| Error::internal("a row of a shard that is not in the corpus"))?;
            if marks.is_null(row) {
                self.not_annotated += 1;
                continue;
            }
            self.unsound += unsound.value(row);
            let texts = self.rows.get_mut(source).ok_or_else(|| Error::internal("a row of no source"))?;
            let drawn = (draws.value(row), *id);
            if texts.len() < self.texts {
                self.memory.grow(NODE_BYTES)?;
                texts.insert(drawn);
            } else if texts.last().is_some_and(|last| drawn < *last) {
                texts.pop_last();
                texts.insert(drawn);
            }
            for mark in marks.value(row).as_chunks::<MARK_BYTES>().0 {
                let [a, b, c, d, e, f, g, h, rest @ ..] = *mark;
                let (label, draw) = (u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes(rest));
                if !self.names.contains_key(&(source, label)) {
                    self.memory.grow(LABEL_BYTES)?;
                }
                let names = self.names.entry((source, label)).or_default();
                if let Some(first) = names.get_mut(&draw) {
                    *first = (*first).min(*id);
                } else if names.len() < self.entities {
                    self.memory.grow(NODE_BYTES)?;
                    names.insert(draw, *id);
                } else if names.last_key_value().is_some_and(|(last, _)| draw < *last) {
                    names.pop_last();
                    names.insert(draw, *id);
                }
            }
        }
        Ok(())
    }

    /// Leaves what can be compared: labels of several sources, and the texts of these sources. Gives how many labels one source alone has.
    fn keep_shared(&mut self) -> usize {
        let mut sources_of: BTreeMap<u64, usize> = BTreeMap::new();
        self.names.keys().for_each(|(_, label)| *sources_of.entry(*label).or_default() += 1);
        self.names.retain(|(_, label), _| sources_of.get(label).is_some_and(|sources| *sources > 1));
        let compared: BTreeSet<usize> = self.names.keys().map(|(source, _)| *source).collect();
        self.rows.iter_mut().enumerate().filter(|(source, _)| !compared.contains(source)).for_each(|(_, rows)| rows.clear());
        sources_of.values().filter(|sources| **sources == 1).count()
    }
}

/// What was read again of the rows that were drawn.
#[derive(Default)]
struct Read {
    texts: BTreeMap<u64, Annotated>,
    /// The names by source, label and draw.
    names: BTreeMap<(usize, u64, u64), String>,
    /// The labels by their numbers.
    labels: BTreeMap<u64, String>,
}

/// The texts of a source, in the order of their draws.
struct Asked {
    rows: Vec<u64>,
    texts: Vec<Annotated>,
}

/// A label of one source in the texts of another.
struct Compared {
    /// The source of the names.
    of: usize,
    /// The source of the texts.
    with: usize,
    label: u64,
    names: u64,
    texts: u64,
    counts: Counts,
    examples: Vec<Example>,
}

/// A name that is labelled otherwise in a text.
struct Example {
    name: String,
    class: Class,
    /// What is said there: another label, or the part that bears this one.
    instead: Option<String>,
    excerpt: String,
    row: u64,
}

/// Examples of a pair of sources and a label.
const EXAMPLES: usize = 20;
/// Characters on either side of an excerpt's name.
const AROUND: usize = 60;
/// Labels that the report tells of.
const TOLD_LABELS: usize = 20;
/// Rows of a batch of a table.
const RUN: usize = 4096;

/// Asks the texts of each source for the names of the others.
struct LabelConsistencyScreen {
    config: LabelConsistencyScreenConfig,
    random: Random,
}

impl Barrier for LabelConsistencyScreen {
    fn run(self: Box<Self>, engine: &Arc<Engine>, input: Narrow) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(async move {
            let Narrow { mut stream, sources, source_names, named, .. } = input;
            let mut sampled = Sampled {
                entities: self.config.sample_entities,
                texts: self.config.sample_texts,
                sources,
                rows: vec![BTreeSet::new(); source_names.len()],
                names: BTreeMap::new(),
                not_annotated: 0,
                unsound: 0,
                memory: engine.reserve("drawing names and texts", 0)?,
            };
            while let Some(batch) = next(&mut stream).await {
                engine.stop().check()?;
                sampled.read(&batch?)?;
            }
            let drops = Drops::for_rows(&sampled.memory, 0)?;
            let engine = Arc::clone(engine);
            let screen = move || self.screen(&engine, sampled, named.as_ref(), &source_names);
            let (report, tables) = spawn::blocking("screening labels", screen).await?;
            Ok(Outcome { drops: drops.into_stream(), report, tables, frozen: None })
        })
    }
}

impl LabelConsistencyScreen {
    /// Reads the texts that were drawn, and the names that were drawn of others.
    fn read(&self, sampled: &Sampled, named: &dyn NamedRows) -> Result<Read> {
        let texts: BTreeSet<u64> = sampled.rows.iter().flatten().map(|(_, row)| *row).collect();
        let mut wanted: Vec<u64> = texts.iter().copied().chain(sampled.names.values().flat_map(BTreeMap::values).copied()).collect();
        let _wanted = sampled.memory.beside("naming rows", wanted.len() * (NODE_BYTES + size_of::<u64>()))?;
        wanted.sort_unstable();
        wanted.dedup();
        let memory = sampled.memory.beside("texts of a label screen", 0)?;
        let read = Mutex::new(Read::default());
        let take = |ids: &[u64], batch: &RecordBatch| {
            let (values, entities) = (text_values(batch.column(1).as_ref())?, Entities::try_new(batch.column(2))?);
            for (row, id) in ids.iter().enumerate() {
                let text = values.get(row);
                let found = text.and_then(|text| Some((text, entities.of(row, text)?.0)));
                let (text, found) = found.ok_or_else(|| Error::internal("a row that was annotated is not any more"))?;
                let source = sampled.sources.get(RowId::from_bits(*id).shard().ordinal()).copied().unwrap_or(usize::MAX);
                let held = texts.contains(id);
                let numbers: Vec<(u64, u64)> = found.iter().map(|entity| entity.drawn(&self.random)).collect();
                let mut read = read.lock().unwrap_or_else(PoisonError::into_inner);
                for (entity, (label, draw)) in found.iter().zip(numbers) {
                    let drawn = sampled.names.get(&(source, label)).is_some_and(|names| names.get(&draw) == Some(id));
                    if drawn && !read.names.contains_key(&(source, label, draw)) {
                        memory.grow(2 * NODE_BYTES + entity.name.len())?;
                        read.names.insert((source, label, draw), entity.name.to_owned());
                    }
                    if (drawn || held) && !read.labels.contains_key(&label) {
                        memory.grow(2 * NODE_BYTES + entity.kind.len())?;
                        read.labels.insert(label, entity.kind.clone());
                    }
                }
                if held {
                    memory.grow(2 * NODE_BYTES + text.len() + found.len() * size_of::<Span>())?;
                    let spans = found.iter().map(Entity::span).collect();
                    read.texts.insert(*id, Annotated { text: text.to_owned(), spans });
                }
            }
            Ok(())
        };
        let take: &TakeRows<'_> = &take;
        named.read(&wanted, take)?;
        Ok(read.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Compares all other sources with the texts of one; `told` holds the examples.
    fn ask(engine: &Engine, sampled: &Sampled, read: &Read, told: &Reservation, (with, texts): (usize, &Asked)) -> Result<Vec<Compared>> {
        let shared = |(of, label): &(usize, u64)| *of != with && sampled.names.contains_key(&(with, *label));
        let asked: Vec<(usize, u64)> = sampled.names.keys().copied().filter(shared).collect();
        let names = |(of, label): (usize, u64)| read.names.range((of, label, 0)..=(of, label, u64::MAX)).map(|(_, name)| name.as_str());
        let _words =
            sampled.memory.beside("words of a label screen", texts.texts.iter().map(|of| label_conflict::bytes(&of.text)).sum())?;
        let index = Texts::new(&texts.texts, asked.iter().flat_map(|key| names(*key)));
        let mut compared = Vec::with_capacity(asked.len());
        for (of, label) in asked {
            engine.stop().check()?;
            let (mut counts, mut asked, mut examples) = (Counts::default(), 0, Vec::new());
            for name in names((of, label)) {
                asked += 1;
                let Some(found) = index.find(name, label) else { continue };
                counts.add(found.class);
                if found.class == Class::Same || examples.len() == EXAMPLES {
                    continue;
                }
                let (row, annotated) = (texts.rows[found.text], &texts.texts[found.text]);
                let instead = found.span.and_then(|span| match found.class {
                    Class::Wrong => read.labels.get(&span.label).cloned(),
                    _ => annotated.text.get(span.start..span.end).map(str::to_owned),
                });
                let excerpt = excerpt(&annotated.text, found.at.start, found.at.end);
                let bytes = name.len() + excerpt.len() + instead.as_ref().map_or(0, String::len);
                told.grow(size_of::<Example>() + bytes)?;
                examples.push(Example { name: name.to_owned(), class: found.class, instead, excerpt, row });
            }
            compared.push(Compared { of, with, label, names: asked, texts: texts.rows.len() as u64, counts, examples });
        }
        Ok(compared)
    }

    fn screen(
        &self,
        engine: &Engine,
        mut sampled: Sampled,
        named: &dyn NamedRows,
        sources: &[String],
    ) -> Result<(Map<String, Value>, Vec<Table>)> {
        let unshared = sampled.keep_shared();
        let mut read = self.read(&sampled, named)?;
        // In the order of their draws: the first that holds a name answers for it.
        let mut of = |rows: &BTreeSet<(u64, u64)>| -> Asked {
            let (rows, texts) = rows.iter().filter_map(|(_, row)| Some((*row, read.texts.remove(row)?))).unzip();
            Asked { rows, texts }
        };
        let texts: Vec<Asked> = sampled.rows.iter().map(&mut of).collect();
        let held = sampled.memory.beside("examples of a label screen", 0)?;
        let ask = |source: (usize, &Asked)| Self::ask(engine, &sampled, &read, &held, source);
        let mut compared = texts.par_iter().enumerate().map(ask).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect::<Vec<_>>();
        let label = |number: u64| read.labels.get(&number).map_or("", String::as_str);
        let worst_first = |a: &Compared, b: &Compared| {
            let ratio = |of: &Compared| of.counts.ratio().unwrap_or(-1.0);
            ratio(b).total_cmp(&ratio(a)).then(b.counts.matched().cmp(&a.counts.matched()))
        };
        let by_name = |of: &Compared| (sources.get(of.of).cloned(), sources.get(of.with).cloned(), label(of.label).to_owned());
        compared.sort_by(|a, b| worst_first(a, b).then_with(|| by_name(a).cmp(&by_name(b))));
        let flagged = |of: &Compared| of.counts.ratio().is_some_and(|ratio| ratio >= self.config.flag_ratio);
        let told = |of: &Compared| {
            json!({
                "flagged": flagged(of), "label": label(of.label), "matched": of.counts.matched(), "names_of": sources.get(of.of),
                "ratio": of.counts.ratio(), "texts_of": sources.get(of.with),
            })
        };
        let pairs: BTreeSet<(usize, usize)> = compared.iter().map(|of| (of.of, of.with)).collect();
        let report = [
            ("compared_labels", json!(compared.len())),
            ("compared_pairs", json!(pairs.len())),
            ("flagged_labels", json!(compared.iter().filter(|of| flagged(of)).count())),
            ("flag_ratio", json!(self.config.flag_ratio)),
            ("not_annotated", json!(sampled.not_annotated)),
            ("unshared_labels", json!(unshared)),
            ("unsound_entities", json!(sampled.unsound)),
            ("worst_labels", compared.iter().filter(|of| of.counts.matched() > 0).take(TOLD_LABELS).map(told).collect()),
        ];
        let source = |place: usize| sources.get(place).map(String::as_str);
        let tables = vec![
            Table { name: "labels", rows: label_table(&compared, source, label, flagged)? },
            Table { name: "examples", rows: example_table(&compared, source, label)? },
        ];
        Ok((report.map(|(name, value)| (name.to_owned(), value)).into_iter().collect(), tables))
    }
}

/// What stands around a name.
fn excerpt(text: &str, start: usize, end: usize) -> String {
    let (before, after) = (text.get(..start).unwrap_or_default(), text.get(end..).unwrap_or_default());
    let from = before.char_indices().rev().nth(AROUND - 1).map_or(0, |(at, _)| at);
    let until = end + after.char_indices().nth(AROUND).map_or(after.len(), |(at, _)| at);
    text.get(from..until).unwrap_or_default().to_owned()
}

/// The rows of a table, in pieces.
fn table(fields: Vec<ArrowField>, columns: Vec<ArrayRef>) -> Result<RowStream> {
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let whole = RecordBatch::try_new(Arc::clone(&schema), columns).context(Kind::Internal, || "cannot build a table of labels".into())?;
    let pieces = (0..whole.num_rows()).step_by(RUN).map(move |from| Ok(whole.slice(from, RUN.min(whole.num_rows() - from))));
    Ok(rows_of(schema, pieces))
}

fn words<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

/// A row for each label of a source in the texts of another, the greatest ratio first.
fn label_table<'a>(
    compared: &[Compared],
    source: impl Fn(usize) -> Option<&'a str>,
    label: impl Fn(u64) -> &'a str,
    flagged: impl Fn(&Compared) -> bool,
) -> Result<RowStream> {
    let count = |name: &str| ArrowField::new(name, DataType::UInt64, false);
    let counts = |of: fn(&Compared) -> u64| -> ArrayRef { Arc::new(UInt64Array::from_iter_values(compared.iter().map(of))) };
    let fields = vec![
        ArrowField::new("names_of", DataType::Utf8, true),
        ArrowField::new("texts_of", DataType::Utf8, true),
        ArrowField::new("label", DataType::Utf8, true),
        count("names"),
        count("texts"),
        count("matched"),
        count("same"),
        count("wrong"),
        count("span"),
        count("missing"),
        ArrowField::new("ratio", DataType::Float64, true),
        ArrowField::new("flagged", DataType::Boolean, false),
    ];
    let columns: Vec<ArrayRef> = vec![
        words(compared.iter().map(|of| source(of.of))),
        words(compared.iter().map(|of| source(of.with))),
        words(compared.iter().map(|of| Some(label(of.label)))),
        counts(|of| of.names),
        counts(|of| of.texts),
        counts(|of| of.counts.matched()),
        counts(|of| of.counts.same),
        counts(|of| of.counts.wrong),
        counts(|of| of.counts.span),
        counts(|of| of.counts.missing),
        Arc::new(compared.iter().map(|of| of.counts.ratio()).collect::<Float64Array>()),
        Arc::new(compared.iter().map(|of| Some(flagged(of))).collect::<BooleanArray>()),
    ];
    table(fields, columns)
}

/// Names that are labelled otherwise, those of a row of the table of labels together; the row is that of the text.
fn example_table<'a>(
    compared: &[Compared],
    source: impl Fn(usize) -> Option<&'a str>,
    label: impl Fn(u64) -> &'a str,
) -> Result<RowStream> {
    let all: Vec<(&Compared, &Example)> = compared.iter().flat_map(|of| of.examples.iter().map(move |example| (of, example))).collect();
    let text = |name: &str| ArrowField::new(name, DataType::Utf8, true);
    let fields = vec![
        text("names_of"),
        text("label"),
        text("name"),
        text("class"),
        text("instead"),
        text("excerpt"),
        ArrowField::new(ROW_ID, DataType::UInt64, false),
    ];
    let columns: Vec<ArrayRef> = vec![
        words(all.iter().map(|(of, _)| source(of.of))),
        words(all.iter().map(|(of, _)| Some(label(of.label)))),
        words(all.iter().map(|(_, example)| Some(example.name.as_str()))),
        words(all.iter().map(|(_, example)| Some(example.class.word()))),
        words(all.iter().map(|(_, example)| example.instead.as_deref())),
        words(all.iter().map(|(_, example)| Some(example.excerpt.as_str()))),
        Arc::new(UInt64Array::from_iter_values(all.iter().map(|(_, example)| example.row))),
    ];
    table(fields, columns)
}
