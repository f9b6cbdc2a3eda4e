//! How much a selecting stage keeps: a number or a share of rows, or bytes or tokens of their texts; of all rows, or of each group of
//! them by its share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field as ArrowField, Fields as ArrowFields, SchemaRef};
use serde_json::{Map, Value, json};

use super::columns::{Detail, cast_strictly, column, numbers, row_column, row_schema};
use super::policy::OnBadVector;
use super::seam::{Needs, ROW_ID, RowLocal, ScanContext};
use crate::dataset::schema::text_values;
use crate::declare::shape::{defaulted, optional};
use crate::declare::{Field, Fields, Presence, Shape};
use crate::diagnostic::Diagnostics;
use crate::engine::{Engine, Reservation, RowStream, map};
use crate::error::{Context as _, Error, Kind, Result};
use crate::ids::RowId;
use crate::select::{allocation, share};
use crate::text::words::words;
use crate::words;

words! {
    /// How a budget is divided among groups.
    pub enum Allocation {
        /// Each group keeps the same share.
        Proportional = "proportional",
        /// Each group keeps the same amount; what small groups cannot use goes to the others.
        Balanced = "balanced",
    }
}

impl Allocation {
    /// What each group is given of `total`; the parts add up to it exactly, or to the sizes.
    #[must_use]
    pub fn divide(self, sizes: &[u64], total: u64) -> Vec<u64> {
        let weight = |size: &u64| if self == Self::Proportional { *size as f64 } else { 1.0 };
        allocation::divide(sizes, &sizes.iter().map(weight).collect::<Vec<_>>(), total)
    }
}

/// How much is kept of all rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    /// This share of the rows; above 0, at most 1.
    Fraction(f64),
    /// This many rows.
    Rows(u64),
    /// This many bytes of text (UTF-8).
    Bytes(u64),
    /// This many words of text (UAX #29).
    Tokens(u64),
}

impl Amount {
    /// What is counted, where it is not rows.
    fn unit(self) -> Option<&'static str> {
        match self {
            Self::Fraction(_) | Self::Rows(_) => None,
            Self::Bytes(_) => Some("bytes"),
            Self::Tokens(_) => Some("tokens"),
        }
    }

    /// Reads the amount of a stage that must have one; none, or two of them, is a problem.
    pub fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        Self::read_optional(fields, out).unwrap_or_else(|| {
            let hint = "say how much to keep: `keep_fraction: 0.5`, `keep_rows: 100000`, `keep_bytes: 10GiB` or `keep_tokens: 1000000`";
            fields.problem(out, "", "no budget is given", Some(hint.into()));
            Self::Fraction(1.0)
        })
    }

    /// Reads the amount of a stage that may have one.
    fn read_optional(fields: &Fields<'_>, out: &mut Diagnostics) -> Option<Self> {
        let given: Vec<&str> = AMOUNTS.into_iter().filter(|key| fields.has(key)).collect();
        if let [first, second, ..] = given.as_slice() {
            let hint = Some("keep the one that you mean and remove the other".to_owned());
            fields.problem(out, second, format!("`{first}` and `{second}` exclude each other"), hint);
        }
        let whole = |key| fields.int(key).map(i64::unsigned_abs);
        Some(match *given.first()? {
            "keep_rows" => Self::Rows(whole("keep_rows").unwrap_or(1)),
            "keep_bytes" => Self::Bytes(fields.bytes("keep_bytes").unwrap_or(1)),
            "keep_tokens" => Self::Tokens(whole("keep_tokens").unwrap_or(1)),
            _ => Self::Fraction(fields.float("keep_fraction").unwrap_or(1.0)),
        })
    }

    /// As hashed into the plan.
    #[must_use]
    pub fn canonical(self) -> Value {
        match self {
            Self::Fraction(fraction) => json!({"fraction": fraction}),
            Self::Rows(rows) => json!({"rows": rows}),
            Self::Bytes(bytes) => json!({"bytes": bytes}),
            Self::Tokens(tokens) => json!({"tokens": tokens}),
        }
    }

    /// The amount out of `size`, which is counted in rows, bytes or tokens as the amount is.
    pub(super) fn of(self, size: u64) -> u64 {
        match self {
            Self::Fraction(fraction) => share(fraction, size),
            Self::Rows(amount) | Self::Bytes(amount) | Self::Tokens(amount) => amount.min(size),
        }
    }
}

/// The budget of a selecting stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Quota {
    /// How much is kept of all rows.
    pub amount: Amount,
    /// The column whose values are groups that each have a budget; nulls are one group.
    pub group: Option<String>,
    /// Whether the rows of each source are groups of their own.
    pub per_source: bool,
    /// How the budget is divided among groups.
    pub allocation: Allocation,
}

/// The key `keep_fraction`.
pub const KEEP_FRACTION: Field = optional(
    "keep_fraction",
    Shape::Float { min: 0.0, max: 1.0, exclusive: true },
    "The share of the rows to keep, above 0 and at most 1. Exactly one of the keys `keep_` is given.",
);

/// The key `keep_rows`.
pub const KEEP_ROWS: Field =
    optional("keep_rows", Shape::Int { min: 1, max: i64::MAX }, "The number of rows to keep. Exactly one of the keys `keep_` is given.");

/// The key `keep_bytes`.
pub const KEEP_BYTES: Field = optional(
    "keep_bytes",
    Shape::Bytes,
    "The bytes of text (UTF-8) to keep: rows in the order of their ranks, up to the first that does not fit.",
);

/// The key `keep_tokens`.
pub const KEEP_TOKENS: Field = optional(
    "keep_tokens",
    Shape::Int { min: 1, max: i64::MAX },
    "The tokens of text to keep, counted as words (UAX #29): rows in the order of their ranks, up to the first that does not fit.",
);

/// The key `group`.
pub const GROUP: Field =
    optional("group", Shape::Text, "A column: the rows of each of its values get a part of the budget; nulls are one group.");

/// The key `per_source`.
pub const PER_SOURCE: Field =
    defaulted("per_source", Shape::Bool, Presence::Bool(false), "Whether the rows of each source get a part of the budget.");

/// The key `allocation`.
pub const ALLOCATION: Field = defaulted(
    "allocation",
    Shape::Choice(Allocation::WORDS),
    Presence::Text("proportional"),
    "How the budget is divided among groups: the same share of each, or (`balanced`) the same amount, as far as a group has so much. The parts add up exactly.",
);

/// The keys that say how much is kept, of which one is given.
const AMOUNTS: [&str; 4] = [KEEP_FRACTION.key, KEEP_ROWS.key, KEEP_BYTES.key, KEEP_TOKENS.key];

impl Quota {
    /// So much of all rows.
    #[must_use]
    pub fn of(amount: Amount) -> Self {
        Self { amount, group: None, per_source: false, allocation: Allocation::Proportional }
    }

    /// No bound: all rows may be kept.
    #[must_use]
    pub fn all() -> Self {
        Self::of(Amount::Fraction(1.0))
    }

    /// Reads the budget of a stage that must have one; none, or two of them, is a problem.
    pub fn read(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        Self { amount: Amount::read(fields, out), ..Self::read_groups(fields, out) }
    }

    /// Reads the budget of a stage that may have one.
    pub fn read_optional(fields: &Fields<'_>, out: &mut Diagnostics) -> Option<Self> {
        let (amount, groups) = (Amount::read_optional(fields, out), Self::read_groups(fields, out));
        Some(Self { amount: amount?, ..groups })
    }

    /// Reads the groups.
    fn read_groups(fields: &Fields<'_>, out: &mut Diagnostics) -> Self {
        let (group, per_source) = (fields.text("group"), fields.bool("per_source").unwrap_or(false));
        if fields.has("allocation") && !fields.has("group") && !per_source {
            let hint = Some("name groups by `group: COLUMN` or `per_source: true`, or remove it".to_owned());
            fields.problem(out, "allocation", "there are no groups to divide the budget among", hint);
        }
        let allocation = fields.text("allocation").and_then(|word| Allocation::from_word(&word)).unwrap_or(Allocation::Proportional);
        Self { group, per_source, allocation, ..Self::all() }
    }

    /// As hashed into the plan.
    #[must_use]
    pub fn canonical(&self) -> Value {
        let mut canonical = self.amount.canonical();
        if let (true, Some(object)) = (self.grouped(), canonical.as_object_mut()) {
            object.insert("allocation".into(), json!(self.allocation.word()));
            object.insert("group".into(), json!(self.group));
            object.insert("per_source".into(), json!(self.per_source));
        }
        canonical
    }

    /// What of it shapes the narrow columns: `None` where there are none.
    pub(super) fn carried(&self) -> Option<Value> {
        let unit = self.amount.unit();
        (unit.is_some() || self.group.is_some()).then(|| json!({"group": self.group, "unit": unit}))
    }

    /// Whether rows take more or less of it by what they hold.
    pub(super) fn measures(&self) -> bool {
        self.amount.unit().is_some()
    }

    /// Whether there are groups.
    pub(super) fn grouped(&self) -> bool {
        self.group.is_some() || self.per_source
    }

    /// What is counted.
    pub(super) fn unit(&self) -> &'static str {
        self.amount.unit().unwrap_or("rows")
    }

    /// The columns that it reads.
    pub(super) fn needs(&self) -> Needs {
        let text = Vec::from_iter(self.measures().then(|| "text".to_owned()));
        Needs { columns: self.group.iter().chain(&text).cloned().collect(), text, ..Needs::default() }
    }

    /// Adds the columns that it reads.
    pub(super) fn add_needs(&self, needs: &mut Needs) {
        let own = self.needs();
        needs.columns.extend(own.columns);
        needs.text.extend(own.text);
    }

    /// An operator that gives what `first` gives, and the columns that the budget needs.
    pub(super) fn carry(&self, cx: &ScanContext<'_>, first: Option<Box<dyn RowLocal>>) -> Result<Option<Box<dyn RowLocal>>> {
        if self.carried().is_none() {
            return Ok(first);
        }
        let mut fields: Vec<Arc<ArrowField>> = first.iter().flat_map(|first| first.makes().iter().cloned().collect::<Vec<_>>()).collect();
        let group = self.group.as_ref().map(|name| column(cx, name)).transpose()?;
        if let Some(index) = group {
            let field = cx.schema.field(index);
            if field.data_type().is_nested() && !matches!(field.data_type(), DataType::Dictionary(..)) {
                let message = format!("rows cannot be grouped by a nested column stage=`{}` group=`{}`", cx.stage, field.name());
                return Err(Error::input(message).hint("name a column of text, numbers or times"));
            }
            fields.push(Arc::new(ArrowField::new(GROUP.key, DataType::Utf8, true)));
        }
        let text = match self.amount.unit() {
            Some(_) => Some(column(cx, "text")?),
            None => None,
        };
        fields.extend(text.map(|_| Arc::new(ArrowField::new(SIZE, DataType::UInt64, true))));
        let row = row_column(cx)?;
        Ok(Some(Box::new(Carry { amount: self.amount, first, group, text, row, output: row_schema(&fields.into()) })))
    }

    /// What a dropped row says: its rank in its group, and the group's budget.
    pub(super) fn detail(&self, budget: u64, rank: u64, cell: Option<u32>) -> Detail {
        match self.amount.unit() {
            None => Detail::Rank { budget, rank, cell },
            Some(unit) => Detail::Measured { budget, rank, unit, cell },
        }
    }
}

/// The narrow column of sizes: bytes or tokens.
const SIZE: &str = "size";

/// Gives the groups and the sizes of rows beside what another operator gives.
struct Carry {
    amount: Amount,
    first: Option<Box<dyn RowLocal>>,
    group: Option<usize>,
    text: Option<usize>,
    row: usize,
    output: SchemaRef,
}

impl RowLocal for Carry {
    fn makes(&self) -> ArrowFields {
        self.output.fields().iter().skip(1).cloned().collect()
    }

    fn apply(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let mut columns: Vec<ArrayRef> = match &mut self.first {
            Some(first) => first.apply(batch)?.columns().to_vec(),
            None => vec![Arc::clone(batch.column(self.row))],
        };
        if let Some(group) = self.group {
            columns.push(cast_strictly(batch.column(group), &DataType::Utf8)?);
        }
        if let Some(text) = self.text {
            let size = |text: &str| {
                let mut count = 0;
                match self.amount {
                    Amount::Tokens(_) => words(text, |_| count += 1),
                    _ => count = text.len() as u64,
                }
                count
            };
            let texts = text_values(batch.column(text).as_ref())?;
            columns.push(Arc::new(texts.iter().map(|text| Some(text.map_or(0, size))).collect::<UInt64Array>()));
        }
        RecordBatch::try_new(Arc::clone(&self.output), columns).context(Kind::Internal, || "cannot carry sizes".into())
    }
}

/// Bytes of a group beside its name.
const GROUP_BYTES: usize = 160;

/// The groups of rows that have gone by, and what each holds.
#[derive(Debug)]
pub(super) struct Tally {
    quota: Quota,
    /// The source of each shard.
    sources: Vec<usize>,
    numbers: BTreeMap<(usize, Option<String>), usize>,
    /// What each group holds, counted as the budget is.
    sizes: Vec<u64>,
    memory: Reservation,
}

impl Tally {
    pub(super) fn try_new(engine: &Engine, quota: &Quota, sources: &[usize]) -> Result<Self> {
        let memory = engine.reserve("groups of a budget", 0)?;
        Ok(Self { quota: quota.clone(), sources: sources.to_vec(), numbers: BTreeMap::new(), sizes: Vec::new(), memory })
    }

    /// The group of each narrow row, by a number that is given where the group is met first, and the row's size.
    pub(super) fn read(&mut self, batch: &RecordBatch) -> Result<Vec<(u64, u64)>> {
        let ids = numbers(batch, ROW_ID)?;
        let groups = match &self.quota.group {
            Some(_) => {
                let column = batch.column_by_name(GROUP.key).ok_or_else(|| Error::internal("a budget of groups was given none"))?;
                Some(column.as_string::<i32>().clone())
            }
            None => None,
        };
        let sizes = if self.quota.amount.unit().is_some() { Some(numbers(batch, SIZE)?) } else { None };
        let mut read = Vec::with_capacity(batch.num_rows());
        for (row, id) in ids.values().iter().enumerate() {
            let shard = RowId::from_bits(*id).shard().ordinal();
            let source = if self.quota.per_source { self.sources.get(shard).copied().unwrap_or(usize::MAX) } else { 0 };
            let name = groups.as_ref().filter(|groups| groups.is_valid(row)).map(|groups| groups.value(row).to_owned());
            let key = (source, name);
            let known = self.numbers.get(&key).copied();
            let number = known.unwrap_or(self.sizes.len());
            if known.is_none() {
                self.memory.grow(GROUP_BYTES + key.1.as_ref().map_or(0, String::len))?;
                self.numbers.insert(key, number);
                self.sizes.push(0);
            }
            read.push((number as u64, sizes.map_or(1, |sizes| sizes.value(row))));
        }
        Ok(read)
    }

    /// The values of the group column, by the groups' numbers; `None` for nulls.
    pub(super) fn names(&self) -> Vec<Option<&str>> {
        let mut names = vec![None; self.sizes.len()];
        for ((_, name), number) in &self.numbers {
            names[*number] = name.as_deref();
        }
        names
    }

    /// Source, value of the group column and number of each group, by source and value.
    pub(super) fn groups(&self) -> Vec<(usize, Option<&str>, usize)> {
        self.numbers.iter().map(|((source, name), number)| (*source, name.as_deref(), *number)).collect()
    }

    /// Counts a row into its group.
    pub(super) fn count(&mut self, group: u64, size: u64) {
        if let Some(held) = self.sizes.get_mut(group as usize) {
            *held += size;
        }
    }

    /// The budgets of the groups, by their numbers. Fractions are rounded in the order of the groups' names, whatever order the rows
    /// came in.
    pub(super) fn budgets(&self) -> Vec<u64> {
        self.budgets_beside(&BTreeMap::new(), false)
    }

    /// The budgets of the groups where some rows cannot be chosen: `apart` is what these take, by group, and they use the budget up first
    /// if they are `kept`. The budget is of all rows, and what is left of it is divided among those that can be chosen, so that as much is
    /// kept as the budget says wherever the rows lie.
    pub(super) fn budgets_beside(&self, apart: &BTreeMap<usize, u64>, kept: bool) -> Vec<u64> {
        let size = |number: &usize| self.sizes[*number].saturating_sub(apart.get(number).copied().unwrap_or(0));
        let sizes: Vec<u64> = self.numbers.values().map(size).collect();
        let first = if kept { apart.values().sum() } else { 0 };
        let parts = self.quota.allocation.divide(&sizes, self.quota.amount.of(self.sizes.iter().sum()).saturating_sub(first));
        let mut budgets = vec![0; sizes.len()];
        for (number, part) in self.numbers.values().zip(parts) {
            budgets[*number] = part;
        }
        budgets
    }

    /// The stage's section of the report: the budgets of all groups together, and what kept rows use of them.
    pub(super) fn report(&self, budgets: &[u64], used: u64, report: &mut Map<String, Value>) {
        report.insert("budget".into(), json!(budgets.iter().sum::<u64>()));
        report.insert("used".into(), json!(used));
        report.insert("unit".into(), json!(self.quota.unit()));
        if self.quota.grouped() {
            report.insert("groups".into(), json!(budgets.len()));
        }
    }
}

/// Group and size of each row, for a barrier that holds its rows in memory.
#[derive(Debug)]
pub(super) struct RowSizes {
    tally: Tally,
    /// Row, group and size, in row order.
    rows: Vec<(u64, u64, u64)>,
}

/// What is filled while a stream is read.
pub(super) type SharedRowSizes = Arc<Mutex<RowSizes>>;

/// The rows of `stream` as they are, of which groups and sizes are noted as they go by.
pub(super) fn noting(tally: Tally, stream: RowStream) -> (RowStream, SharedRowSizes) {
    let sized = Arc::new(Mutex::new(RowSizes { tally, rows: Vec::new() }));
    let (shared, schema) = (Arc::clone(&sized), stream.schema());
    let stream = map(stream, schema, move |batch| {
        let mut sized = shared.lock().unwrap_or_else(PoisonError::into_inner);
        sized.tally.memory.grow(batch.num_rows() * size_of::<(u64, u64, u64)>())?;
        let read = sized.tally.read(&batch)?;
        for (row, (group, size)) in numbers(&batch, ROW_ID)?.values().iter().zip(read) {
            sized.tally.count(group, size);
            sized.rows.push((*row, group, size));
        }
        Ok(batch)
    });
    (stream, sized)
}

/// Takes what was noted, after the stream has ended.
pub(super) fn noted(shared: &SharedRowSizes) -> std::sync::MutexGuard<'_, RowSizes> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RowSizes {
    /// The budgets of the groups, by their numbers, where `bad` rows (with the names of their statuses) cannot be chosen: see
    /// [`Tally::budgets_beside`].
    pub(super) fn budgets_beside(&self, bad: &[(u64, &'static str)], policy: OnBadVector) -> Result<Vec<u64>> {
        let mut apart = BTreeMap::new();
        for (row, _) in bad {
            let (group, size) = self.of(*row)?;
            *apart.entry(group).or_insert(0) += size;
        }
        Ok(self.tally.budgets_beside(&apart, policy == OnBadVector::Keep))
    }

    /// Group and size of a row, by its [`RowId`] bits.
    pub(super) fn of(&self, row: u64) -> Result<(usize, u64)> {
        let place = self.rows.binary_search_by_key(&row, |(row, ..)| *row);
        let (_, group, size) = place.ok().and_then(|place| self.rows.get(place)).ok_or_else(|| Error::internal("a row without a size"))?;
        Ok((*group as usize, *size))
    }

    /// The groups.
    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }
}
