//! One body on both databases: SQLite in a file, and a real PostgreSQL that the test starts.

use nyx_specialists::facts::{Aggregate, Answer, FactTable, Filter, Op, Order, Plan, Value, run};
use sea_orm::{ConnectionTrait, TransactionTrait};
use tempfile::TempDir;

use super::*;
use crate::testing::postgres::Postgres;

const COLUMNS: [&str; 5] = ["week", "date", "opponent", "result", "attendance"];
const ROWS: [[&str; 5]; 5] = [
    ["1", "september 20 , 1970", "Green Bay  Packers", "w 40 - 0", "56,263"],
    ["2", "september 27 , 1970", "cincinnati bengals", "w 38 - 3", "58202"],
    ["3", "october 5 , 1970", "chicago bears", "l 28 - 14", "58210"],
    ["4", "-", "ÀLEX 100% _team_", "w 1 - 0", ""],
    ["5", "october 18 , 1970", "chicago bears", "l 41 - 24", "83577.5"],
];

fn season() -> FileTable {
    let rows = ROWS.iter().map(|row| row.iter().map(|&cell| cell.to_owned()).collect()).collect();
    FileTable { columns: COLUMNS.map(String::from).into(), rows }
}

fn import_of(name: &str, table: FileTable) -> Import {
    Import { name: name.into(), caption: "1970 detroit lions season".into(), table }
}

/// A phoebe and its facts.
struct Place {
    facts: Facts,
    phoebe: PhoebeOptions,
    store: PhoebeStore,
    dir: TempDir,
}

impl Place {
    async fn new(phoebe: PhoebeOptions, options: FactOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = PhoebeStore::connect(&phoebe, dir.path()).await.unwrap();
        let facts = Facts::new(store.clone(), &phoebe, dir.path(), options, None);
        Self { facts, phoebe, store, dir }
    }

    /// The same phoebe with other settings.
    fn again(&self, options: FactOptions) -> Facts {
        Facts::new(self.store.clone(), &self.phoebe, self.dir.path(), options, None)
    }

    async fn sql(&self, text: &str) {
        self.store.writer().execute_unprepared(text).await.unwrap();
    }
}

fn postgres(server: &Postgres) -> PhoebeOptions {
    PhoebeOptions { url: Some(server.url().into()), ..PhoebeOptions::default() }
}

fn filter(column: &str, op: Op, value: Value) -> Filter {
    Filter { column: column.into(), op, value }
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

/// Plans of every kind over the season.
fn plans() -> Vec<Plan> {
    let plan = |filters: Vec<Filter>, aggregate: Aggregate| Plan::new("season", filters, aggregate);
    let most = Value::Of(Box::new(plan(Vec::new(), Aggregate::Max("attendance".into()))));
    let mut plans = vec![
        plan(Vec::new(), Aggregate::Count),
        plan(vec![filter("opponent", Op::Eq, text("green bay packers"))], Aggregate::Count),
        plan(vec![filter("opponent", Op::Contains, text("àlex 100% _team"))], Aggregate::Count),
        plan(vec![filter("opponent", Op::Contains, text("' or 1=1 --"))], Aggregate::Count),
        plan(vec![filter("opponent", Op::Lacks, text("bears"))], Aggregate::Count),
        plan(vec![filter("result", Op::Begins, text("w"))], Aggregate::Count),
        plan(vec![filter("result", Op::Differs, text("w"))], Aggregate::Count),
        plan(vec![filter("date", Op::Contains, text("october"))], Aggregate::Count),
        plan(vec![filter("attendance", Op::Eq, most.clone())], Aggregate::Min("date".into())),
        plan(vec![filter("opponent", Op::Ne, text("chicago bears")), filter("attendance", Op::Lt, most)], Aggregate::Count),
        plan(Vec::new(), Aggregate::Distinct("opponent".into())),
        plan(Vec::new(), Aggregate::Max("date".into())),
        plan(Vec::new(), Aggregate::Min("date".into())),
        plan(vec![filter("week", Op::Gt, Value::Number(99.0))], Aggregate::Max("attendance".into())),
    ];
    for op in [Op::Eq, Op::Ne, Op::Lt, Op::Le, Op::Gt, Op::Ge] {
        plans.push(plan(vec![filter("attendance", op, Value::Number(58_210.0))], Aggregate::Count));
        plans.push(plan(vec![filter("date", op, text("1970-09-27"))], Aggregate::Count));
    }
    for aggregate in [Aggregate::Min, Aggregate::Max, Aggregate::Sum, Aggregate::Mean] {
        plans.push(plan(Vec::new(), aggregate("attendance".into())));
    }
    plans
}

fn near(one: &Answer, other: &Answer) -> bool {
    match (one, other) {
        (Answer::Number(one), Answer::Number(other)) => (one - other).abs() < 1e-6,
        (one, other) => one == other,
    }
}

async fn answers_as_memory_does(place: &Place) {
    place.facts.import(vec![import_of("season", season())]).await.unwrap();
    let FileTable { columns, rows } = season();
    let memory = FactTable::new("season", "", &columns, rows);
    for plan in plans() {
        let (answered, expected) = (place.facts.run(&plan).await.unwrap(), run(&memory, &plan));
        assert!(near(&answered, &expected), "{}: {answered:?}, in memory {expected:?}", plan.describe());
    }
    let order = Order { column: "attendance".into(), descending: true };
    let ordered = Plan { order: Some(order), limit: Some(2), ..Plan::new("season", Vec::new(), Aggregate::Rows) };
    let rows = place.facts.rows(&ordered).await.unwrap();
    assert_eq!(rows.iter().map(|(number, cells)| (*number, cells[0].as_str())).collect::<Vec<_>>(), [(5, "5"), (3, "3")]);
    assert_eq!(rows[0].1[4], "83577.5");
    place.facts.remove("season").await.unwrap();
}

async fn a_table_comes_and_goes(place: &Place) {
    let facts = &place.facts;
    facts.import(vec![import_of("coming", season())]).await.unwrap();
    let twice = facts.import(vec![import_of("other", season()), import_of("coming", season())]).await.unwrap_err();
    assert!(twice.to_string().contains("\"coming\" is registered already"), "{twice}");
    assert!(facts.show("other", 1).await.is_err(), "all or none");
    let (report, rows) = facts.show("coming", 2).await.unwrap();
    assert_eq!((report.rows, rows.len(), rows[0][2].as_str()), (Some(5), 2, "Green Bay  Packers"));
    assert_eq!(facts.rank("Is it true that the lions lost to the chicago bear?", 3).await.unwrap()[0].0, "coming");
    // another process sees it too, and sees it go
    let beside = place.again(FactOptions::default());
    assert!(beside.show("coming", 1).await.is_ok());
    facts.remove("coming").await.unwrap();
    let gone = beside.show("coming", 1).await.unwrap_err();
    assert_eq!((gone.error_type(), gone.status()), ("source_not_found", 404));
    assert!(gone.to_string().contains("\"coming\""), "{gone}");
    assert!(facts.remove("coming").await.is_err());
    beside.close().await;
}

/// Names and values are data, whatever they look like.
async fn injections_are_harmless(place: &Place) {
    let evil = "x\"; DROP TABLE nyx_sources; --";
    let mut table = season();
    table.columns[2] = "op'); DELETE FROM nyx_sources; --".into();
    table.rows[0][2] = "'; DROP TABLE nyx_sources; --".into();
    let column = table.columns[2].clone();
    place.facts.import(vec![import_of(evil, table)]).await.unwrap();
    let count = |value: &str| Plan::new(evil, vec![filter(&column, Op::Eq, text(value))], Aggregate::Count);
    assert_eq!(place.facts.run(&count("'; drop table nyx_sources; --")).await.unwrap(), Answer::Number(1.0));
    assert_eq!(place.facts.run(&count("' OR '1'='1")).await.unwrap(), Answer::Number(0.0));
    // what names something is refused by that name
    let refused = place.facts.run(&Plan::new("nyx_sources; DROP TABLE nyx_sources", Vec::new(), Aggregate::Count)).await.unwrap_err();
    assert!(refused.to_string().contains("no table \"nyx_sources; DROP TABLE nyx_sources\" is registered"), "{refused}");
    for secret in ["nyx_synthetic_specialist_queries", "nyx_sources", "sqlite_master", "pg_catalog.pg_user"] {
        let refused = place.facts.run(&Plan::new(secret, Vec::new(), Aggregate::Count)).await.unwrap_err();
        assert_eq!(refused.error_type(), "source_not_found", "{secret}");
        assert!(refused.to_string().contains(secret), "{refused}");
    }
    let column = Plan::new(evil, vec![filter("week\" = 1 OR 1=1 --", Op::Eq, Value::Number(1.0))], Aggregate::Count);
    let refused = place.facts.run(&column).await.unwrap_err();
    assert!(refused.status() == 400 && refused.to_string().contains("has no column"), "{refused}");
    for statement in ["'; DROP TABLE nyx_sources; --", "Is it true that \"week\" = 1; DELETE FROM nyx_sources?", "DROP TABLE nyx_sources"] {
        place.facts.check(statement).await.unwrap();
    }
    assert!(place.facts.show(evil, 1).await.is_ok(), "still there");
    place.facts.remove(evil).await.unwrap();
}

/// The connection itself refuses, whoever would ask it to write.
async fn nothing_writes(place: &Place) {
    place.facts.import(vec![import_of("kept", season())]).await.unwrap();
    place.facts.run(&Plan::new("kept", Vec::new(), Aggregate::Count)).await.unwrap();
    let reader = place.facts.reader(None, None).await.unwrap();
    let table = import::entries(place.store.reader(), Some("kept")).await.unwrap().pop().unwrap().relation;
    let backend = reader.connection().get_database_backend();
    for statement in [
        format!("DELETE FROM {table}"),
        format!("UPDATE {table} SET c0 = 'x'"),
        format!("DROP TABLE {table}"),
        format!("INSERT INTO {table} (\"row\") VALUES (9)"),
        "CREATE TABLE nyx_evil (a INT)".to_owned(),
    ] {
        let refused = reader.read(vec![sea_orm::Statement::from_string(backend, statement.clone())]).await;
        let refused = refused.expect_err(&statement);
        let told = refused.to_string().to_lowercase();
        assert!(told.contains("readonly") || told.contains("read-only") || told.contains("permission denied"), "{statement}: {refused}");
    }
    assert_eq!(place.facts.run(&Plan::new("kept", Vec::new(), Aggregate::Count)).await.unwrap(), Answer::Number(5.0));
    place.facts.remove("kept").await.unwrap();
}

/// A view that would run for minutes.
const SLOW: &str = "CREATE VIEW endless AS WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 2000000000) \
                    SELECT MAX(n) AS n FROM c";

async fn a_long_query_is_cut(place: &Place) {
    place.sql(SLOW).await;
    let source = SourceOptions { table: "endless".into(), columns: Vec::new(), description: "numbers".into(), url: None, role: None };
    // known before it is asked, so that the query itself is what is cut
    let facts = place.again(FactOptions { query_timeout_ms: 300, source: vec![source.clone()], ..FactOptions::default() });
    let begun = std::time::Instant::now();
    let reader = facts.reader(None, None).await.unwrap();
    let endless = catalogue::foreign(&source, reader, None).await.unwrap();
    let cut = facts.answers(&endless, &[Plan::new("endless", Vec::new(), Aggregate::Count)]).await.unwrap_err();
    assert_eq!((cut.error_type(), cut.status()), ("query_timeout", 504));
    assert!(cut.to_string().contains("cut after 300 ms"), "{cut}");
    // registering it finds it unreadable, says so and goes on with the others
    let reports = facts.sources().await.unwrap();
    let told = reports.iter().find(|report| report.name == "endless").unwrap().error.clone().unwrap();
    assert!(told.contains("cut after 300 ms"), "{told}");
    assert!(begun.elapsed() < Duration::from_secs(30), "cut late: {:?}", begun.elapsed());
    // the connection is good for the next
    assert!(facts.answers(&endless, &[]).await.is_ok());
    facts.close().await;
    place.sql("DROP VIEW endless").await;
}

async fn tables_of_others_are_read_as_they_are(place: &Place, url: Option<SecretUrl>) {
    place.sql("CREATE TABLE cities (\"Name\" TEXT, people BIGINT, area NUMERIC(10,2), founded DATE, secret TEXT)").await;
    place
        .sql("INSERT INTO cities VALUES ('Turin', 850000, 130.2, '0028-01-01', 's'), ('Milan', 1400000, 181.7, '1200-05-02', 's'), ('Aosta', 33000, NULL, NULL, 's')")
        .await;
    let columns = ["Name", "people", "area", "founded"].map(String::from).to_vec();
    let source = SourceOptions { table: "cities".into(), columns, description: "italian cities".into(), url, role: None };
    let wrong = SourceOptions { columns: vec!["colour".into()], ..source.clone() };
    let missing = SourceOptions { table: "villages".into(), columns: Vec::new(), ..source.clone() };
    let options = FactOptions { source: vec![source, missing], max_rows: 2, ..FactOptions::default() };
    let facts = place.again(options.clone());
    let count = |filters: Vec<Filter>| Plan::new("cities", filters, Aggregate::Count);
    for (plan, expected) in [
        (count(vec![filter("Name", Op::Eq, text("turin"))]), Answer::Number(1.0)),
        (count(vec![filter("people", Op::Ge, Value::Number(850_000.0))]), Answer::Number(2.0)),
        (count(vec![filter("founded", Op::Lt, text("1000-01-01"))]), Answer::Number(1.0)),
        (Plan::new("cities", Vec::new(), Aggregate::Max("area".into())), Answer::Number(181.7)),
        (Plan::new("cities", Vec::new(), Aggregate::Max("founded".into())), Answer::Text("1200-05-02".into())),
    ] {
        assert_eq!(facts.run(&plan).await.unwrap(), expected, "{}", plan.describe());
    }
    let hidden = facts.run(&count(vec![filter("secret", Op::Eq, text("s"))])).await.unwrap_err();
    assert!(hidden.to_string().contains("\"secret\""), "{hidden}");
    assert_eq!(facts.rows(&Plan::new("cities", Vec::new(), Aggregate::Rows)).await.unwrap().len(), 2, "the row limit holds");
    let reports = facts.sources().await.unwrap();
    let told = |name: &str| reports.iter().find(|report| report.name == name).unwrap().error.clone();
    assert_eq!(told("cities"), None);
    assert!(told("villages").unwrap().contains("no table or view \"villages\""));
    let facts = place.again(FactOptions { source: vec![wrong], ..options });
    assert!(facts.sources().await.unwrap()[0].error.clone().unwrap().contains("no column \"colour\""));
    place.sql("DROP TABLE cities").await;
}

async fn everything(place: &Place, url: Option<SecretUrl>) {
    answers_as_memory_does(place).await;
    a_table_comes_and_goes(place).await;
    injections_are_harmless(place).await;
    nothing_writes(place).await;
    a_long_query_is_cut(place).await;
    tables_of_others_are_read_as_they_are(place, None).await;
    tables_of_others_are_read_as_they_are(place, url).await;
}

#[actix::test]
async fn facts_hold_on_sqlite() {
    let place = Place::new(PhoebeOptions::default(), FactOptions::default()).await;
    let url = place.phoebe.url_in(place.dir.path());
    everything(&place, Some(url)).await;
}

#[actix::test]
async fn facts_hold_on_postgres() {
    let server = Postgres::start();
    let place = Place::new(postgres(&server), FactOptions::default()).await;
    everything(&place, Some(server.url().into())).await;
}

/// With a role that may only read, writing is refused even outside a read-only transaction.
#[actix::test]
async fn a_role_without_rights_reads_and_no_more() {
    let server = Postgres::start();
    let role = "nyx \"reader";
    let options = FactOptions { role: Some(role.into()), ..FactOptions::default() };
    let place = Place::new(postgres(&server), options).await;
    place.sql("CREATE ROLE \"nyx \"\"reader\"; GRANT \"nyx \"\"reader\" TO nyx").await;
    place.facts.import(vec![import_of("season", season())]).await.unwrap();
    assert_eq!(place.facts.run(&Plan::new("season", Vec::new(), Aggregate::Count)).await.unwrap(), Answer::Number(5.0));
    let reader = place.facts.reader(None, None).await.unwrap();
    // what was not granted cannot even be read
    let decisions = sea_orm::Statement::from_string(sea_orm::DbBackend::Postgres, "SELECT * FROM nyx_synthetic_specialist_queries");
    let refused = reader.read(vec![decisions]).await.unwrap_err();
    assert!(refused.to_string().contains("permission denied"), "{refused}");
    let transaction = reader.connection().begin().await.unwrap();
    transaction.execute_unprepared("SET LOCAL ROLE \"nyx \"\"reader\"").await.unwrap();
    let table = import::entries(place.store.reader(), Some("season")).await.unwrap().pop().unwrap().relation;
    let refused = transaction.execute_unprepared(&format!("DELETE FROM {table}")).await.unwrap_err();
    assert!(refused.to_string().contains("permission denied"), "{refused}");
    drop(transaction);
    // a role that is not there is an error that names it
    let lost = place.again(FactOptions { role: Some("nobody_here".into()), ..FactOptions::default() });
    let told = lost.run(&Plan::new("season", Vec::new(), Aggregate::Count)).await.unwrap_err().to_string();
    assert!(told.contains("season") || told.contains("nobody_here"), "{told}");
}

#[actix::test]
async fn a_table_that_cannot_be_kept_is_refused_by_name() {
    let place = Place::new(PhoebeOptions::default(), FactOptions::default()).await;
    let wide = FileTable { columns: vec!["a".into()], rows: vec![vec!["1".into(), "2".into()]] };
    let nul = FileTable { columns: vec!["a".into()], rows: vec![vec!["\0".into()]] };
    let none = FileTable { columns: Vec::new(), rows: Vec::new() };
    for (name, table, told) in [
        ("w", wide, "row 1 of \"w\""),
        ("n", nul, "NUL"),
        ("e", none, "0 columns"),
        (" ", season(), "\" \""),
        ("a\nb", season(), "\"a\\nb\""),
    ] {
        let refused = place.facts.import(vec![import_of(name, table)]).await.unwrap_err();
        assert!(refused.status() == 400 && refused.to_string().contains(told), "{refused}");
    }
    // columns of one name stay apart, and one without a name has one
    let twins = FileTable { columns: vec!["a".into(), "a".into(), String::new()], rows: vec![vec!["1".into(), "2".into(), "3".into()]] };
    place.facts.import(vec![import_of("twins", twins)]).await.unwrap();
    let (report, _) = place.facts.show("twins", 1).await.unwrap();
    assert_eq!(report.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>(), ["a", "a (2)", "column 3"]);
}

/// As many tables as a trial registers: all at once, and each found by what it says.
#[actix::test]
async fn many_tables_are_registered_at_once() {
    let place = Place::new(PhoebeOptions::default(), FactOptions::default()).await;
    let begun = std::time::Instant::now();
    let table = |number: usize| FileTable {
        columns: COLUMNS.map(String::from).into(),
        rows: (0..15).map(|row| (0..5).map(|column| format!("team{number}x{row} {column}")).collect()).collect(),
    };
    place.facts.import((0..155).map(|number| import_of(&format!("t{number}"), table(number))).collect()).await.unwrap();
    assert_eq!(place.facts.rank("who beat team77x3?", 5).await.unwrap()[0].0, "t77");
    assert_eq!(place.facts.sources().await.unwrap().len(), 155);
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}
