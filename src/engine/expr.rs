//! SQL predicates over the columns of one row: checked without a schema, compiled against one, evaluated a batch at a time.
//! Column names are used exactly as written (no lower-casing); function names are not case-sensitive.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::execution::context::SessionState;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::{ExprSchemable, Volatility};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::DFParserBuilder;
use datafusion::sql::sqlparser::ast::{Expr, ExprWithAlias, Function, Query, Value, ValueWithSpan, Visit, Visitor};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use super::failure::from_datafusion;
use crate::diagnostic::nearest;
use crate::error::{Context, Error, Kind, Result};
use crate::limits::{MAX_SQL_DEPTH, MAX_SQL_TOKENS};

/// Nesting of brackets and prefix operators, which the parser follows by recursion.
const MAX_BRACKETS: usize = 50;

/// The functions that are known, and how expressions are planned. Holds no table and reads nothing.
static STATE: LazyLock<SessionState> = LazyLock::new(|| {
    let mut config = SessionConfig::new();
    let options = config.options_mut();
    options.sql_parser.enable_ident_normalization = false;
    options.sql_parser.parse_float_as_decimal = false;
    SessionStateBuilder::new_with_default_features().with_config(config).build()
});

/// Why an expression is refused, and the mend.
pub type Refusal = (String, Option<String>);

/// Checks a predicate without a schema: its syntax, and that it depends on the columns of one row alone. Aggregates, window
/// functions, subqueries, lambdas, parameters, and functions whose result is not fixed by their arguments are refused.
///
/// # Errors
/// What is wrong, and the mend.
pub fn check_predicate(sql: &str) -> Result<(), Refusal> {
    let parsed = parse(sql)?;
    if let Some(alias) = &parsed.alias {
        return Err((format!("the expression is given a name, `{alias}`"), Some("remove `AS ...`".into())));
    }
    match parsed.visit(&mut RowLocal { depth: 0 }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(refusal) => Err(refusal),
    }
}

/// The columns that a predicate names, exactly as written, each once, in order of appearance. None where [`check_predicate`] refuses it. Of
/// `a.b` and `a['b']`, which take a field of a nested column, it is `a`.
#[must_use]
pub fn columns_of(sql: &str) -> Vec<String> {
    let mut columns = Columns(Vec::new());
    if check_predicate(sql).is_ok()
        && let Ok(parsed) = parse(sql)
    {
        let _: ControlFlow<()> = parsed.visit(&mut columns);
    }
    columns.0
}

/// Compiles a predicate against a schema: types are coerced, and the result is boolean.
///
/// # Errors
/// Kind usage: [`check_predicate`] refuses it, a column is not there, the types do not fit, or the result is not boolean.
pub fn compile(sql: &str, schema: SchemaRef) -> Result<Arc<dyn PhysicalExpr>> {
    check_predicate(sql).map_err(|refusal| refused(sql, refusal))?;
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    for column in columns_of(sql) {
        if !names.contains(&column.as_str()) {
            let hint = match nearest(&column, names.iter().copied()) {
                Some(name) => format!("did you mean `{name}`? names are case-sensitive"),
                None => format!("the columns are {}; a text is written in single quotes", listed(&names)),
            };
            return Err(Error::usage(format!("no column `{column}` for the expression sql=`{sql}`")).hint(hint));
        }
    }
    let parsed = parse(sql).map_err(|refusal| refused(sql, refusal))?;
    let cannot = || format!("cannot plan the expression sql=`{sql}`");
    let schema = DFSchema::try_from(schema).context(Kind::Usage, cannot)?;
    let logical = STATE.create_logical_expr_from_sql_expr(parsed, &schema).context(Kind::Usage, cannot)?;
    let data_type = logical.get_type(&schema).context(Kind::Usage, cannot)?;
    if data_type != DataType::Boolean {
        let error = Error::usage(format!("the expression gives {data_type}, not a truth value sql=`{sql}`"));
        return Err(error.hint("compare it with something, as in `length(text) >= 200`"));
    }
    STATE.create_physical_expr(logical, &schema).context(Kind::Usage, cannot)
}

/// The value of a compiled predicate for each row of a batch; NULL stays NULL.
///
/// # Errors
/// Kind input: the expression fails on a row, as a division by zero does.
pub fn evaluate(expression: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<BooleanArray> {
    let fails = || format!("the expression fails on a row sql=`{expression}`");
    let value = expression.evaluate(batch).and_then(|value| value.into_array(batch.num_rows()));
    let value = value.map_err(|error| from_datafusion(error).context(fails()))?;
    let booleans = value.as_any().downcast_ref::<BooleanArray>();
    booleans.cloned().ok_or_else(|| Error::internal(format!("a predicate gave {} sql=`{expression}`", value.data_type())))
}

fn refused(sql: &str, (message, hint): Refusal) -> Error {
    let error = Error::usage(format!("{message} sql=`{sql}`"));
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn listed(names: &[&str]) -> String {
    const MOST: usize = 20;
    let mut text = names.iter().take(MOST).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if names.len() > MOST {
        text.push_str(", ...");
    }
    text
}

fn parse(sql: &str) -> Result<ExprWithAlias, Refusal> {
    if sql.trim().is_empty() {
        return Err(("the expression is empty".into(), Some("write one, such as `length(text) >= 200`".into())));
    }
    let dialect = GenericDialect {};
    let unparsable = |error: &str| (format!("the SQL cannot be parsed: {}", syntax_message(error)), None);
    let tokens = Tokenizer::new(&dialect, sql).tokenize_with_location().map_err(|error| unparsable(&error.to_string()))?;
    let words = tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).count();
    if words > MAX_SQL_TOKENS {
        return Err((format!("the expression has {words} words and signs; the limit is {MAX_SQL_TOKENS}"), None));
    }
    let parsed = DFParserBuilder::new(tokens)
        .with_dialect(&dialect)
        .with_recursion_limit(MAX_BRACKETS)
        .build()
        .and_then(|mut parser| parser.parse_into_expr());
    parsed.map_err(|error| unparsable(&error.to_string()))
}

/// The parser's message without its wrapping, and with the place inside the expression.
fn syntax_message(text: &str) -> String {
    let text = text.lines().next().unwrap_or_default();
    let text = text.strip_prefix("SQL error: ").unwrap_or(text);
    let inner = ["ParserError(\"", "TokenizerError(\""]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix))
        .map_or(text, |inner| inner.trim_end_matches("\")"));
    let unescaped = inner.replace("\\\"", "\"");
    match unescaped.split_once(" at Line: ") {
        Some((what, place)) => format!("{what} at {} of the expression", place.replace(", Column: ", ":")),
        None if unescaped.starts_with("RecursionLimitExceeded") => format!("it nests deeper than {MAX_BRACKETS} levels"),
        None => unescaped,
    }
}

/// Breaks at the first thing that does not depend on one row alone, and where the expression nests too deep for the planner.
struct RowLocal {
    depth: usize,
}

impl Visitor for RowLocal {
    type Break = Refusal;

    fn pre_visit_query(&mut self, _query: &Query) -> ControlFlow<Refusal> {
        ControlFlow::Break(("a subquery is not row-local".into(), Some("write an expression over the columns of one row".into())))
    }

    fn pre_visit_value(&mut self, value: &ValueWithSpan) -> ControlFlow<Refusal> {
        match &value.value {
            Value::Placeholder(name) => {
                ControlFlow::Break((format!("the parameter `{name}` has no value"), Some("write the value itself".into())))
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<Refusal> {
        self.depth += 1;
        let refusal = match expression {
            _ if self.depth > MAX_SQL_DEPTH => Some((
                format!("the expression nests deeper than {MAX_SQL_DEPTH} levels"),
                Some("write `a IN (1, 2, 3)` for a chain of `OR`, or split it into several filters".to_owned()),
            )),
            Expr::Function(function) => check_function(function).err(),
            Expr::Lambda(_) => Some(("lambda functions are not supported here".to_owned(), None)),
            Expr::Wildcard(_) | Expr::QualifiedWildcard(..) => Some(("`*` is not a column".to_owned(), Some("name a column".to_owned()))),
            Expr::Identifier(name) if name.value.starts_with('@') && name.quote_style.is_none() => {
                Some((format!("the variable `{name}` has no value"), Some("write the value itself".to_owned())))
            }
            _ => None,
        };
        refusal.map_or(ControlFlow::Continue(()), ControlFlow::Break)
    }

    fn post_visit_expr(&mut self, _expression: &Expr) -> ControlFlow<Refusal> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }
}

fn check_function(function: &Function) -> Result<(), Refusal> {
    let name = match function.name.0.as_slice() {
        [part] => part.as_ident().map(|ident| if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }),
        _ => None,
    };
    let name = name.unwrap_or_else(|| function.name.to_string());
    let row_local = || Some("use a function of the columns of one row".to_owned());
    if function.over.is_some() || STATE.window_functions().contains_key(&name) && !STATE.scalar_functions().contains_key(&name) {
        return Err((format!("the window function `{name}` is not row-local"), row_local()));
    }
    if let Some(known) = STATE.scalar_functions().get(&name) {
        return match known.signature().volatility {
            Volatility::Immutable => Ok(()),
            _ => Err((
                format!("the function `{name}` is volatile: it does not give the same value each time"),
                Some("use a function whose value its arguments fix".into()),
            )),
        };
    }
    if STATE.aggregate_functions().contains_key(&name) {
        return Err((format!("the aggregate function `{name}` is not row-local"), row_local()));
    }
    if STATE.higher_order_functions().contains_key(&name) {
        return Err((format!("the function `{name}` takes a lambda, which is not supported here"), None));
    }
    let known = names(STATE.scalar_functions());
    let hint = nearest(&name, known.iter().copied()).map(|near| format!("did you mean `{near}`?"));
    Err((format!("unknown function `{name}`"), hint.or_else(|| Some("any row-local function of DataFusion can be used".into()))))
}

fn names<V>(functions: &HashMap<String, V>) -> Vec<&str> {
    let mut names: Vec<&str> = functions.keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

struct Columns(Vec<String>);

impl Visitor for Columns {
    type Break = ();

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
        let root = match expression {
            Expr::Identifier(name) => Some(name),
            Expr::CompoundIdentifier(parts) => parts.first(),
            _ => None,
        };
        if let Some(name) = root
            && !self.0.contains(&name.value)
        {
            self.0.push(name.value.clone());
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray, StructArray};
    use arrow::datatypes::{Field, Schema};

    use super::*;

    fn batch() -> RecordBatch {
        let meta = StructArray::from(vec![(
            Arc::new(Field::new("lang", DataType::Utf8, true)),
            Arc::new(StringArray::from(vec![Some("en"), Some("de"), None])) as Arc<dyn Array>,
        )]);
        let schema = Arc::new(Schema::new(vec![
            Field::new("text", DataType::Utf8, true),
            Field::new("Score", DataType::Int64, true),
            Field::new("meta", meta.data_type().clone(), true),
        ]));
        let text = StringArray::from(vec![Some("hello"), None, Some("a")]);
        RecordBatch::try_new(schema, vec![Arc::new(text), Arc::new(Int64Array::from(vec![1, 0, 3])), Arc::new(meta)]).unwrap()
    }

    fn run(sql: &str) -> Vec<Option<bool>> {
        let batch = batch();
        let expression = compile(sql, batch.schema()).unwrap();
        evaluate(&expression, &batch).unwrap().iter().collect()
    }

    #[test]
    fn predicates_give_a_truth_value_a_row() {
        assert_eq!(run("length(text) >= 2"), [Some(true), None, Some(false)]);
        assert_eq!(run("LENGTH(text) > 2 OR Score = 3"), [Some(true), None, Some(true)]);
        assert_eq!(run("Score > 0.5"), [Some(true), Some(false), Some(true)]);
        assert_eq!(run("meta['lang'] = 'en'"), [Some(true), Some(false), None]);
        assert_eq!(run("meta.lang IN ('en', 'de')"), [Some(true), Some(true), None]);
        assert_eq!(run("text IS NULL"), [Some(false), Some(true), Some(false)]);
        assert_eq!(run("regexp_like(text, '^h')"), [Some(true), None, Some(false)]);
        assert_eq!(run("true"), [Some(true), Some(true), Some(true)]);
        assert_eq!(run("CASE WHEN Score > 2 THEN text LIKE 'a%' ELSE false END"), [Some(false), Some(false), Some(true)]);
    }

    #[test]
    fn what_is_not_row_local_is_refused() {
        for (sql, word) in [
            ("random() < 0.5", "volatile"),
            ("created < now()", "volatile"),
            ("d = current_date", "volatile"),
            ("d = CURRENT_DATE()", "volatile"),
            ("t < CURRENT_TIMESTAMP", "volatile"),
            ("t < current_time", "volatile"),
            ("uuid() = id", "volatile"),
            ("a > 1 AND (b OR upper(uuid()) = c)", "volatile"),
            ("count(*) > 1", "aggregate"),
            ("score > avg(score)", "aggregate"),
            ("row_number() OVER (ORDER BY a) = 1", "window"),
            ("sum(a) OVER () > 1", "window"),
            ("rank() > 1", "window"),
            ("a IN (SELECT b FROM t)", "subquery"),
            ("EXISTS (SELECT 1)", "subquery"),
            ("a > (SELECT max(b) FROM t)", "subquery"),
            ("a = $1", "parameter"),
            ("a > 1 AS b", "name"),
            ("a >", "parsed"),
            ("a > 1; DROP TABLE t", "parsed"),
            ("a = 'open", "parsed"),
            ("", "empty"),
            ("  ", "empty"),
            ("lenght(text) > 1", "unknown function"),
            ("pg_sleep(5) > 1", "unknown function"),
            (&"(".repeat(9_000), "deeper"),
            (&format!("{}a", "NOT ".repeat(5_000)), "parsed"),
            (&format!("{}a", "a OR ".repeat(4_000)), "deeper"),
            (&format!("{}a", "a OR ".repeat(6_000)), "limit"),
        ] {
            let (message, _) = check_predicate(sql).expect_err(sql);
            assert!(message.contains(word), "{sql}: {message}");
        }
        assert_eq!(check_predicate("lenght(text) > 1").unwrap_err().1.as_deref(), Some("did you mean `length`?"));
    }

    #[test]
    fn every_function_that_is_not_immutable_is_refused() {
        let mut refused = Vec::new();
        for name in names(STATE.scalar_functions()) {
            if STATE.scalar_functions()[name].signature().volatility != Volatility::Immutable {
                check_predicate(&format!("{name}() = 1")).expect_err(name);
                refused.push(name);
            }
        }
        for known in ["now", "random", "uuid", "current_date", "current_time"] {
            assert!(refused.contains(&known), "{known} is not among {refused:?}");
        }
    }

    #[test]
    fn what_a_person_writes_is_deep_enough() {
        let chain = format!("{}Score > 1", "Score = 7 OR ".repeat(100));
        let list = format!("Score IN ({}1)", "7, ".repeat(4_000));
        let nested = format!("{}Score > 1{}", "(".repeat(20), ")".repeat(20));
        // Frames are many times larger where nothing is optimised: the stack of a test is too small there, that of the program is not.
        let deep = std::thread::Builder::new().stack_size(32 << 20);
        let found = deep.spawn(move || [&chain, &list, &nested].map(|sql| run(sql)));
        assert_eq!(found.unwrap().join().unwrap().len(), 3);
    }

    #[test]
    fn columns_keep_their_case_and_come_once() {
        assert_eq!(
            columns_of("Score > 1 AND score < 2 AND \"My Col\" = Score AND meta.lang = 'x' AND m['y'] = 'z'"),
            ["Score", "score", "My Col", "meta", "m"]
        );
        assert_eq!(columns_of("not sql ("), Vec::<String>::new());
    }

    #[test]
    fn misfits_with_the_schema_are_usage_errors_with_a_hint() {
        for (sql, hint) in
            [("score > 1", "`Score`"), ("text = \"hello\"", "single quotes"), ("Score", "compare"), ("length(text)", "compare")]
        {
            let error = compile(sql, batch().schema()).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{sql}");
            assert!(error.report().contains(hint), "{sql}: {}", error.report());
        }
        assert_eq!(compile("Score > 'abc' || text[1]", batch().schema()).unwrap_err().kind(), Kind::Usage);
        let batch = batch();
        let division = compile("1 / Score > 0", batch.schema()).unwrap();
        assert_eq!(evaluate(&division, &batch).unwrap_err().kind(), Kind::Input);
    }
}
