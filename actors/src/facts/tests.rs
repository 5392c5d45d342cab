//! Runs the same tests on both databases: SQLite in a file, and a PostgreSQL server started by the
//! test.

use nyx_domain::ErrorClass;
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

/// A database and its fact service.
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
        let facts = Facts::new(store.clone(), &phoebe, dir.path(), options);
        Self { facts, phoebe, store, dir }
    }

    /// The same database with other settings.
    fn again(&self, options: FactOptions) -> Facts {
        Facts::new(self.store.clone(), &self.phoebe, self.dir.path(), options)
    }

    async fn sql(&self, text: &str) {
        self.store.writer().execute_unprepared(text).await.unwrap();
    }
}

fn postgres(server: &Postgres) -> PhoebeOptions {
    PhoebeOptions { url: Some(server.url().into()), ..PhoebeOptions::default() }
}

fn ids(found: &[Evidence]) -> Vec<&str> {
    found.iter().map(|row| row.id.as_str()).collect()
}

async fn first(facts: &Facts, text: &str) -> Option<Evidence> {
    facts.search(text, 1).await.unwrap().pop()
}

/// Rows are found by value, by column name and by description, in any script; the whole row is
/// returned.
async fn rows_are_found(place: &Place) {
    let facts = &place.facts;
    let cities = FileTable {
        columns: ["Name", "\u{421}\u{442}\u{440}\u{430}\u{43d}\u{430}", "人口"]
            .map(String::from)
            .into(),
        rows: [
            ["Zürich", "Schweiz", "443037"],
            ["Москва", "Россия", "13010112"],
            ["東京都", "日本", "14047594"],
            ["Élancourt", "", ""],
        ]
        .iter()
        .map(|row| row.map(String::from).into())
        .collect(),
    };
    facts.import(vec![import_of("season", season())]).await.unwrap();
    facts
        .import(vec![Import {
            name: "cities".into(),
            caption: "Metropolen der Welt".into(),
            table: cities,
        }])
        .await
        .unwrap();
    for (text, expected) in [
        ("Did they lose to the chicago bears in week 3?", "table:season#3"),
        ("ÀLEX", "table:season#4"),
        ("alex _team_", "table:season#4"),
        ("ZU\u{308}RICH", "table:cities#1"),
        ("Сколько людей в городе москва?", "table:cities#2"),
        ("東京の人口は？", "table:cities#3"),
        ("京", "table:cities#3"),
        ("elancourt", "table:cities#4"),
        // a match on the table's description or columns alone returns its first row
        ("metropolen", "table:cities#1"),
        ("страна", "table:cities#1"),
        ("人口", "table:cities#1"),
        ("attendance", "table:season#1"),
        ("detroit lions", "table:season#1"),
        ("cities", "table:cities#1"),
    ] {
        assert_eq!(first(facts, text).await.map(|row| row.id).as_deref(), Some(expected), "{text}");
    }
    assert_eq!(
        facts
            .search("zeppelin ' OR '1'='1", 5)
            .await
            .unwrap()
            .iter()
            .filter(|row| row.source == "cities")
            .count(),
        0
    );
    let found = facts.search("opponent chicago bears", 3).await.unwrap();
    assert_eq!(found.len(), 3);
    let row = found.iter().find(|row| row.id == "table:season#5").unwrap();
    assert_eq!(
        row.text,
        "week: 5; date: october 18 , 1970; opponent: chicago bears; result: l 41 - 24; attendance: 83577.5"
    );
    assert_eq!(row.source, "season");
    // the table's description is returned with its first result only, and empty cells are omitted
    let about: Vec<&String> = found.iter().flat_map(|row| &row.context).collect();
    assert_eq!(about, ["1970 detroit lions season"]);
    assert_eq!(found[0].context.len(), 1);
    assert_eq!(first(facts, "elancourt").await.unwrap().text, "Name: Élancourt");
    assert!(
        found.windows(2).all(|pair| pair[0].score >= pair[1].score)
            && found[0].score < 1.0
            && found[2].score > 0.0,
        "{found:?}"
    );
    facts.remove("season").await.unwrap();
    facts.remove("cities").await.unwrap();
}

async fn a_table_comes_and_goes(place: &Place) {
    let facts = &place.facts;
    facts.import(vec![import_of("coming", season())]).await.unwrap();
    let twice = facts
        .import(vec![import_of("other", season()), import_of("coming", season())])
        .await
        .unwrap_err();
    assert!(twice.to_string().contains("\"coming\" is registered already"), "{twice}");
    assert!(facts.show("other", 1).await.is_err(), "all or none");
    let (report, rows) = facts.show("coming", 2).await.unwrap();
    assert_eq!((report.rows, rows.len(), rows[0][2].as_str()), (Some(5), 2, "Green Bay  Packers"));
    // another process sees the table, its new content after a second import, and its removal
    let beside = place.again(FactOptions::default());
    for facts in [facts, &beside] {
        assert_eq!(first(facts, "chicago bears, week 3").await.unwrap().id, "table:coming#3");
    }
    facts.remove("coming").await.unwrap();
    let mut anew = season();
    anew.rows[2][2] = "oakland raiders".into();
    facts
        .import(vec![import_of(
            "coming",
            FileTable { columns: anew.columns, rows: anew.rows[..4].to_vec() },
        )])
        .await
        .unwrap();
    for facts in [&beside, facts] {
        assert_eq!(facts.search("bears", 5).await.unwrap(), []);
        assert_eq!(ids(&facts.search("oakland raiders", 1).await.unwrap()), ["table:coming#3"]);
    }
    facts.remove("coming").await.unwrap();
    for facts in [&beside, facts] {
        assert_eq!(
            facts.search("oakland raiders detroit lions coming opponent", 5).await.unwrap(),
            []
        );
    }
    let gone = beside.show("coming", 1).await.unwrap_err();
    assert_eq!((gone.error_type(), gone.class()), ("table_not_found", ErrorClass::NotFound));
    assert!(gone.to_string().contains("\"coming\""), "{gone}");
    assert!(facts.remove("coming").await.is_err());
    beside.close().await;
}

/// Names, values and questions are treated as data, never as SQL.
async fn injections_are_harmless(place: &Place) {
    let evil = "x\"; DROP TABLE nyx_tables; --";
    let mut table = season();
    table.columns[2] = "op'); DELETE FROM nyx_tables; --".into();
    table.rows[0][2] = "'; DROP TABLE nyx_tables; --".into();
    place.facts.import(vec![import_of(evil, table)]).await.unwrap();
    // the table's own name contains these words too, so they do not distinguish its rows
    let found = place.facts.search("'; drop table nyx_tables; week 1", 5).await.unwrap();
    let row = found.iter().find(|row| row.id == format!("table:{evil}#1")).unwrap();
    assert!(
        row.text.contains("op'); DELETE FROM nyx_tables; --: '; DROP TABLE nyx_tables; --; result"),
        "{}",
        row.text
    );
    // only registered tables can be shown; the error for others contains the name
    for secret in [
        "nyx_synthetic_specialist_queries",
        "nyx_tables",
        "sqlite_master",
        "pg_catalog.pg_user",
        "x; DROP TABLE nyx_tables",
    ] {
        let refused = place.facts.show(secret, 1).await.unwrap_err();
        assert!(
            refused.error_type() == "table_not_found" && refused.to_string().contains(secret),
            "{refused}"
        );
    }
    for statement in [
        "'; DROP TABLE nyx_tables; --",
        "Is it true that \"week\" = 1; DELETE FROM nyx_tables?",
        "DROP TABLE nyx_tables",
    ] {
        place.facts.search(statement, 5).await.unwrap();
    }
    assert_eq!(place.facts.show(evil, 9).await.unwrap().1.len(), 5, "still there");
    place.facts.remove(evil).await.unwrap();
}

/// The connection itself refuses all writes.
async fn nothing_writes(place: &Place) {
    place.facts.import(vec![import_of("kept", season())]).await.unwrap();
    place.facts.show("kept", 1).await.unwrap();
    let reader = place.facts.reader(None, None).await.unwrap();
    let table =
        import::entries(place.store.reader(), Some("kept")).await.unwrap().pop().unwrap().relation;
    let backend = reader.connection().get_database_backend();
    for statement in [
        format!("DELETE FROM {table}"),
        format!("UPDATE {table} SET c0 = 'x'"),
        format!("DROP TABLE {table}"),
        format!("INSERT INTO {table} (\"row\") VALUES (9)"),
        "CREATE TABLE nyx_evil (a INT)".to_owned(),
    ] {
        let refused =
            reader.read(sea_orm::Statement::from_string(backend, statement.clone())).await;
        let refused = refused.expect_err(&statement);
        let reported = refused.to_string().to_lowercase();
        assert!(
            reported.contains("readonly")
                || reported.contains("read-only")
                || reported.contains("permission denied"),
            "{statement}: {refused}"
        );
    }
    assert_eq!(place.facts.show("kept", 9).await.unwrap().1.len(), 5);
    place.facts.remove("kept").await.unwrap();
}

/// A view that would run for minutes.
const SLOW: &str = "CREATE VIEW endless AS WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 2000000000) \
                    SELECT MAX(n) AS n FROM c";

async fn a_long_query_is_cut(place: &Place) {
    place.sql(SLOW).await;
    let source = TableOptions {
        table: "endless".into(),
        columns: Vec::new(),
        description: "numbers".into(),
        url: None,
        role: None,
    };
    // loaded directly, so that the query itself hits the time limit
    let facts = place.again(FactOptions {
        query_timeout_ms: 300,
        external: vec![source.clone()],
        ..FactOptions::default()
    });
    let begun = std::time::Instant::now();
    let reader = facts.reader(None, None).await.unwrap();
    let endless = catalogue::foreign(&source, reader, None).await.unwrap();
    let cut = endless.rows(1).await.unwrap_err();
    assert_eq!((cut.error_type(), cut.class()), ("query_timeout", ErrorClass::DeadlineExceeded));
    assert!(cut.to_string().contains("cut after 300 ms"), "{cut}");
    // loading the sources reports this one as unreadable and continues with the others
    let reports = facts.tables().await.unwrap();
    let reported =
        reports.iter().find(|report| report.name == "endless").unwrap().error.clone().unwrap();
    assert!(reported.contains("cut after 300 ms"), "{reported}");
    assert!(begun.elapsed() < Duration::from_secs(30), "cut late: {:?}", begun.elapsed());
    // the connection remains usable
    let backend = endless.reader.connection().get_database_backend();
    endless.reader.read(sea_orm::Statement::from_string(backend, "SELECT 1")).await.unwrap();
    facts.close().await;
    place.sql("DROP VIEW endless").await;
}

async fn tables_of_others_are_read_as_they_are(place: &Place, url: Option<SecretUrl>) {
    place.sql("CREATE TABLE cities (\"Name\" TEXT, people BIGINT, area NUMERIC(10,2), founded DATE, secret TEXT)").await;
    place
        .sql("INSERT INTO cities VALUES ('Turin', 850000, 130.2, '0028-01-01', 's'), ('Milan', 1400000, 181.7, '1200-05-02', 's'), ('Aosta', 33000, NULL, NULL, 's')")
        .await;
    let columns = ["Name", "people", "area", "founded"].map(String::from).to_vec();
    let source = TableOptions {
        table: "cities".into(),
        columns,
        description: "italian cities".into(),
        url,
        role: None,
    };
    let wrong = TableOptions { columns: vec!["colour".into()], ..source.clone() };
    let missing = TableOptions { table: "villages".into(), columns: Vec::new(), ..source.clone() };
    // four cells per row: the first two rows are kept
    let options =
        FactOptions { external: vec![source, missing], index_cells: 8, ..FactOptions::default() };
    let facts = place.again(options.clone());
    let turin = first(&facts, "turin").await.unwrap();
    assert_eq!((turin.id.as_str(), turin.source.as_str()), ("table:cities#1", "cities"));
    assert!(
        turin.text.starts_with("Name: Turin; people: 850000; area: 130.2")
            && turin.text.contains("founded: 0028-01-01"),
        "{}",
        turin.text
    );
    assert_eq!(first(&facts, "milan").await.unwrap().id, "table:cities#2");
    assert_eq!(facts.search("aosta", 5).await.unwrap(), [], "the limit holds");
    assert_eq!(facts.search("italian", 5).await.unwrap().len(), 2);
    assert_eq!(facts.search("secret s", 5).await.unwrap(), [], "a column that may not be read");
    let reports = facts.tables().await.unwrap();
    let reported =
        |name: &str| reports.iter().find(|report| report.name == name).unwrap().error.clone();
    assert_eq!(reported("cities"), None);
    assert!(reported("villages").unwrap().contains("no table or view \"villages\""));
    let facts = place.again(FactOptions { external: vec![wrong], ..options });
    assert!(
        facts.tables().await.unwrap()[0].error.clone().unwrap().contains("no column \"colour\"")
    );
    place.sql("DROP TABLE cities").await;
}

async fn everything(place: &Place, url: Option<SecretUrl>) {
    rows_are_found(place).await;
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

/// With a read-only role, writes are refused even outside a read-only transaction.
#[actix::test]
async fn a_role_without_rights_reads_and_no_more() {
    let server = Postgres::start();
    let role = "nyx \"reader";
    let options = FactOptions { role: Some(role.into()), ..FactOptions::default() };
    let place = Place::new(postgres(&server), options).await;
    place.sql("CREATE ROLE \"nyx \"\"reader\"; GRANT \"nyx \"\"reader\" TO nyx").await;
    place.facts.import(vec![import_of("season", season())]).await.unwrap();
    assert_eq!(place.facts.show("season", 9).await.unwrap().1.len(), 5);
    let reader = place.facts.reader(None, None).await.unwrap();
    // tables without a grant cannot be read either
    let decisions = sea_orm::Statement::from_string(
        sea_orm::DbBackend::Postgres,
        "SELECT * FROM nyx_synthetic_specialist_queries",
    );
    let refused = reader.read(decisions).await.unwrap_err();
    assert!(refused.to_string().contains("permission denied"), "{refused}");
    let transaction = reader.connection().begin().await.unwrap();
    transaction.execute_unprepared("SET LOCAL ROLE \"nyx \"\"reader\"").await.unwrap();
    let table = import::entries(place.store.reader(), Some("season"))
        .await
        .unwrap()
        .pop()
        .unwrap()
        .relation;
    let refused =
        transaction.execute_unprepared(&format!("DELETE FROM {table}")).await.unwrap_err();
    assert!(refused.to_string().contains("permission denied"), "{refused}");
    drop(transaction);
    // a missing role is an error that contains its name
    let lost =
        place.again(FactOptions { role: Some("nobody_here".into()), ..FactOptions::default() });
    let reported = lost.tables().await.unwrap()[0].error.clone().unwrap();
    assert!(reported.contains("nobody_here"), "{reported}");
}

#[actix::test]
async fn a_table_that_cannot_be_kept_is_refused_by_name() {
    let place = Place::new(PhoebeOptions::default(), FactOptions::default()).await;
    let wide = FileTable { columns: vec!["a".into()], rows: vec![vec!["1".into(), "2".into()]] };
    let nul = FileTable { columns: vec!["a".into()], rows: vec![vec!["\0".into()]] };
    let none = FileTable { columns: Vec::new(), rows: Vec::new() };
    for (name, table, reported) in [
        ("w", wide, "row 1 of \"w\""),
        ("n", nul, "NUL"),
        ("e", none, "0 columns"),
        (" ", season(), "\" \""),
        ("a\nb", season(), "\"a\\nb\""),
    ] {
        let refused = place.facts.import(vec![import_of(name, table)]).await.unwrap_err();
        assert!(
            refused.class() == ErrorClass::InvalidRequest && refused.to_string().contains(reported),
            "{refused}"
        );
    }
    // duplicate column names are made unique, and an empty one is replaced
    let twins = FileTable {
        columns: vec!["a".into(), "a".into(), String::new()],
        rows: vec![vec!["1".into(), "2".into(), "3".into()]],
    };
    place.facts.import(vec![import_of("twins", twins)]).await.unwrap();
    let (report, _) = place.facts.show("twins", 1).await.unwrap();
    assert_eq!(
        report.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>(),
        ["a", "a (2)", "column 3"]
    );
}

/// The limit applies to all tables together: small ones are kept whole, large ones share the rest.
#[actix::test]
async fn what_is_kept_in_memory_is_bounded_over_all_tables() {
    let place = Place::new(
        PhoebeOptions::default(),
        FactOptions { index_cells: 30, ..FactOptions::default() },
    )
    .await;
    let table = |name: &str, rows: usize| {
        let rows = (1..=rows).map(|row| vec![format!("{name}{row}"), "beside".into()]).collect();
        import_of(name, FileTable { columns: vec!["what".into(), "else".into()], rows })
    };
    // two rows of the small table leave 26 cells: 13 for the next table (six rows of two), and 14
    // for the last
    place
        .facts
        .import(vec![table("wide", 100), table("small", 2), table("large", 50)])
        .await
        .unwrap();
    for (found, lost) in [("small2", "small3"), ("large6", "large7"), ("wide7", "wide8")] {
        assert_eq!(
            first(&place.facts, found).await.map(|row| row.text),
            Some(format!("what: {found}; else: beside"))
        );
        assert_eq!(first(&place.facts, lost).await, None);
    }
    // the limit affects search only: the table is listed and shown in full
    assert_eq!(place.facts.show("wide", 100).await.unwrap().1.len(), 100);
    let rows: Vec<Option<u64>> =
        place.facts.tables().await.unwrap().into_iter().map(|report| report.rows).collect();
    assert_eq!(rows, [Some(50), Some(2), Some(100)]);
}

/// As many tables as an evaluation case registers, in one import; each is found by its content.
#[actix::test]
async fn many_tables_are_registered_at_once() {
    let place = Place::new(PhoebeOptions::default(), FactOptions::default()).await;
    let begun = std::time::Instant::now();
    let table = |number: usize| FileTable {
        columns: COLUMNS.map(String::from).into(),
        rows: (0..15)
            .map(|row| (0..5).map(|column| format!("team{number}x{row} {column}")).collect())
            .collect(),
    };
    place
        .facts
        .import((0..155).map(|number| import_of(&format!("t{number}"), table(number))).collect())
        .await
        .unwrap();
    assert_eq!(first(&place.facts, "who beat team77x3?").await.unwrap().id, "table:t77#4");
    assert_eq!(place.facts.tables().await.unwrap().len(), 155);
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}
