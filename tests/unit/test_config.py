"""Where settings come from, what is said of wrong ones, and which stop the start."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from pourtier_grpc.addresses import is_loopback
from pourtier_grpc.config import ConfigError, Settings, load

PLATFORM = Path(__file__).parents[1] / "data" / "pourtier.yaml"
# Every secret below says so, and none may appear where a person reads.
SECRET = "s3cr3t"
LONG_SECRET = f"{SECRET}-of-more-than-thirty-two-bytes"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "pourtier.yaml"
    monkeypatch.setenv("POURTIER_CONFIG", str(path))
    return path


def production(**changes: object) -> Settings:
    safe = {
        "env": "production",
        "database_url": "postgresql://database/pourtier",
        "jwt_algorithm": "HS256",
        "jwt_secret_key": LONG_SECRET,
    }
    return load(**{**safe, **changes})


class TestSources:
    def test_arguments_go_before_the_environment_that_before_the_file_and_defaults_last(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file.write_text("THREADS: 3\nQUEUE_LIMIT: 3\nCHALLENGE_MINUTES: 3\n")
        monkeypatch.setenv("THREADS", "2")
        monkeypatch.setenv("QUEUE_LIMIT", "2")
        loaded = load(threads=1)
        assert (loaded.threads, loaded.queue_limit, loaded.challenge_minutes) == (
            1,
            2,
            3,
        )
        assert loaded.database_pool_size == 20

    def test_the_platforms_file_loads_unchanged(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("POURTIER_CONFIG", str(PLATFORM))
        loaded = load()
        assert loaded.env == "development"
        assert loaded.database_dsn() == (
            "postgresql+psycopg://pourtier:platform-database-password"
            "@postgres:5432/pourtier_db"
        )
        assert loaded.redis_dsn() == "redis://:platform-redis-password@redis:6379/0"
        assert loaded.jwt_algorithm == "HS256"
        assert loaded.jwt_secret_key is not None
        assert loaded.jwt_secret_key.get_secret_value().startswith("platform-jwt")
        assert loaded.access_token_lifetime == timedelta(minutes=45)
        assert loaded.unsafe() == []

    def test_keys_of_the_platforms_file_that_mean_nothing_are_named(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("POURTIER_CONFIG", str(PLATFORM))
        assert load().ignored() == [
            "API_HOST",
            "API_PORT",
            "COURIER_URL",
            "DATABASE_ECHO",
            "DEBUG",
            "ESCROW_PROGRAM_ID",
            "REDIS_DB",
            "SOLANA_RPC_URL",
        ]

    @pytest.mark.parametrize("content", ["", "# nothing\n", "---\n"])
    def test_an_empty_file_is_no_settings(self, file: Path, content: str) -> None:
        file.write_text(content)
        assert load() == Settings()

    @pytest.mark.parametrize("key", ["THREADS", "threads", "Threads"])
    def test_keys_are_read_in_any_case(self, file: Path, key: str) -> None:
        file.write_text(f"{key}: 5\n")
        assert load().threads == 5
        assert load().ignored() == []

    @pytest.mark.parametrize(
        ("short", "env"),
        [
            ("dev", "development"),
            ("local", "development"),
            ("PROD", "production"),
            ("Staging", "staging"),
        ],
    )
    def test_environments_have_short_names(self, short: str, env: str) -> None:
        assert load(env=short).env == env

    @pytest.mark.parametrize("name", ["KEY_DIR", "DATABASE_URL", "THREADS"])
    def test_an_empty_variable_is_no_value(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(name, "")
        assert load() == Settings()


class TestValuesOfTheFile:
    @pytest.mark.parametrize(
        "text",
        [
            "https://a.example,http://localhost:3000",
            " https://a.example , http://localhost:3000 , ",
            "[https://a.example, 'http://localhost:3000']",
            "\n  - https://a.example\n  - http://localhost:3000",
        ],
    )
    def test_origins_may_be_a_list_or_text_with_commas(
        self, file: Path, text: str
    ) -> None:
        file.write_text(f"ALLOWED_ORIGINS: {text}\n")
        assert load().origins == ("https://a.example", "http://localhost:3000")

    def test_numbers_may_be_quoted_or_not(self, file: Path) -> None:
        file.write_text(
            "REDIS_PORT: '6380'\nTHREADS: 8\nDATABASE_STATEMENT_TIMEOUT_SECONDS: 2.5\n"
            "ALLOW_PLAINTEXT: yes\n"
        )
        loaded = load()
        assert (loaded.redis_port, loaded.threads) == (6380, 8)
        assert loaded.database_statement_timeout_seconds == 2.5
        assert loaded.allow_plaintext

    @pytest.mark.parametrize("digits", ["12345678", "0123456", "1_000", "12:30:45"])
    def test_a_password_of_digits_is_read_as_it_is_written(
        self, file: Path, digits: str
    ) -> None:
        file.write_text(f"REDIS_HOST: redis\nREDIS_PASSWORD: {digits}\n")
        loaded = load().redis_password
        assert loaded is not None
        assert loaded.get_secret_value() == digits

    @pytest.mark.parametrize("nothing", ["", "~", "null", "''"])
    def test_a_key_without_a_value_is_not_set(self, file: Path, nothing: str) -> None:
        file.write_text(f"KEY_DIR: {nothing}\nTHREADS: {nothing}\n")
        assert load() == Settings()

    @pytest.mark.parametrize("password", ["p@ss/w:rd", "%41", "ä"])
    def test_a_redis_password_may_hold_any_character(self, password: str) -> None:
        redis = pytest.importorskip("redis")
        dsn = load(redis_host="h", redis_password=password).redis_dsn()
        made = redis.ConnectionPool.from_url(dsn).connection_kwargs
        assert (made["host"], made["password"]) == ("h", password)

    @pytest.mark.parametrize(
        "scheme",
        ["postgresql", "postgres", "postgresql+asyncpg", "postgresql+psycopg2"],
    )
    def test_a_database_url_may_name_any_driver(self, scheme: str) -> None:
        loaded = load(
            database_url=f"{scheme}://user:p%40ss@host:1/name?sslmode=require"
        )
        assert loaded.database_dsn() == (
            "postgresql+psycopg://user:p%40ss@host:1/name?sslmode=require"
        )

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("?ssl=require", "?sslmode=require"),
            ("?a=ssl&ssl=disable", "?a=ssl&sslmode=disable"),
            ("?sslmode=prefer", "?sslmode=prefer"),
        ],
    )
    def test_asyncpgs_ssl_is_libpqs_sslmode(self, query: str, expected: str) -> None:
        dsn = load(database_url=f"postgresql+asyncpg://h/d{query}").database_dsn()
        assert dsn == f"postgresql+psycopg://h/d{expected}"


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "value", "sentence"),
        [
            ("THREADS", "many", "THREADS: Input should be a valid integer"),
            ("THREADS", "0", "THREADS: Input should be greater than or equal to 1"),
            ("ALLOW_PLAINTEXT", "perhaps", "ALLOW_PLAINTEXT: Input should be a valid"),
            ("JWT_ALGORITHM", "none", "JWT_ALGORITHM: Input should be 'EdDSA' or"),
            ("ENV", "holiday", "ENV: Input should be 'development',"),
            ("ALLOWED_ORIGINS", "app.example", "ALLOWED_ORIGINS: 'app.example' is not"),
            ("ALLOWED_ORIGINS", "https://A.example", "'https://A.example' is not an"),
            ("ALLOWED_ORIGINS", "https://a.example/", "'https://a.example/' is not an"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317", "OTLP_ENDPOINT: String"),
            ("TRACE_SAMPLE_RATIO", "2", "TRACE_SAMPLE_RATIO: Input should be less"),
        ],
    )
    def test_a_wrong_value_is_a_sentence_that_names_the_setting(
        self, monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str
    ) -> None:
        monkeypatch.setenv(name, value)
        with pytest.raises(ConfigError) as info:
            load()
        assert sentence in str(info.value)
        assert "\n" not in str(info.value)

    def test_every_wrong_setting_is_named(self) -> None:
        with pytest.raises(ConfigError, match=r"THREADS: .*; QUEUE_LIMIT: "):
            load(threads="many", queue_limit=0)

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (f"A: 1\nJWT_SECRET_KEY: [{SECRET}\n", "it is not YAML in line"),
            (f"A: 1\nJWT_SECRET_KEY: *{SECRET}\n", "it is not YAML in line 2"),
            (f"JWT_SECRET_KEY: {SECRET}: b\n", "it is not YAML in line 1"),
            (f"JWT_SECRET_KEY: {SECRET}\x01\n", "it is not YAML"),
            (f"- {SECRET}\n", "it is not a list of settings"),
            (SECRET, "it is not a list of settings"),
            (f"JWT_SECRET_KEY: [{SECRET}]\n", "JWT_SECRET_KEY: Input should be"),
            (f"DATABASE_URL: {{{SECRET}: 1}}\n", "DATABASE_URL: Input should be"),
            (f"REDIS_PORT: {SECRET}\n", "REDIS_PORT: Input should be a valid integer"),
        ],
    )
    def test_a_broken_file_is_a_sentence_without_what_stands_in_it(
        self, file: Path, content: str, reason: str
    ) -> None:
        file.write_text(content)
        with pytest.raises(ConfigError) as info:
            load()
        sentence = str(info.value)
        assert reason in sentence
        assert SECRET not in sentence
        assert "\n" not in sentence

    def test_a_file_that_is_not_utf8_is_a_sentence(self, file: Path) -> None:
        file.write_bytes(b"PASSEUR_URL: \xff\n")
        with pytest.raises(ConfigError, match=r"POURTIER_CONFIG=.*: it is not UTF-8"):
            load()

    def test_a_missing_file_is_a_sentence(self, file: Path) -> None:
        with pytest.raises(ConfigError, match="No such file or directory"):
            load()

    def test_a_folder_in_the_place_of_the_file_is_a_sentence(self, file: Path) -> None:
        file.mkdir()
        with pytest.raises(ConfigError, match=r"POURTIER_CONFIG=.* cannot be read"):
            load()

    @pytest.mark.parametrize("url", [f"mysql://u:{SECRET}@h/d", SECRET, f"h:{SECRET}"])
    def test_a_database_url_of_another_kind_is_not_repeated(self, url: str) -> None:
        with pytest.raises(ConfigError, match=r"^DATABASE_URL is not a postgresql://"):
            load(database_url=url).database_dsn()

    @pytest.mark.parametrize(
        "url",
        [
            "passeur:8766",
            "ftp://h",
            "http://u:p@h",
            "http://h?",
            "http://",
            "http://a b",
            "http://[no",
            "http://h:99999",
            "http://a..b",
            "http://☃.x",
            f"http://{'a' * 300}",
            "http://h:0x",
            "http://\x01",
            "http://::1",
        ],
    )
    def test_a_passeur_without_a_usable_url_is_a_sentence(self, url: str) -> None:
        with pytest.raises(ConfigError, match=r"^PASSEUR_URL: "):
            load(passeur_url=url)

    @pytest.mark.parametrize(
        "url", ["http://passeur:8766", "https://h.example/a/b/", "http://[::1]:1"]
    )
    def test_a_passeurs_url(self, url: str) -> None:
        assert load(passeur_url=url).passeur_url == url

    def test_neither_repr_nor_str_shows_a_secret(self) -> None:
        loaded = load(
            database_url=f"postgresql://u:{SECRET}@h/d",
            redis_url=f"redis://:{SECRET}@h/0",
            redis_password=SECRET,
            jwt_secret_key=LONG_SECRET,
        )
        for shown in (repr(loaded), str(loaded), f"{loaded.model_dump()}"):
            assert "database_url" in shown
            assert SECRET not in shown
        assert SECRET not in repr(loaded.with_database(f"postgresql://u:{SECRET}@h/e"))

    def test_settings_cannot_be_changed(self) -> None:
        with pytest.raises(ValueError, match="frozen"):
            load().threads = 1


class TestUnsafe:
    def test_a_safe_production_is_safe(self) -> None:
        assert production().unsafe() == []
        assert production(jwt_algorithm="EdDSA", jwt_secret_key=None).unsafe() == []
        assert production().origins == ("https://app.lumiere.trade",)

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"jwt_secret_key": "your-secret-key-here"}, "JWT_SECRET_KEY is a default"),
            ({"jwt_secret_key": "CHANGEME"}, "JWT_SECRET_KEY is a default or shorter"),
            ({"jwt_secret_key": LONG_SECRET[:31]}, "or shorter than 32 bytes"),
            ({"jwt_secret_key": None}, "JWT_ALGORITHM=HS256 needs JWT_SECRET_KEY"),
            ({"grpc_listen": "0.0.0.0:50051"}, "0.0.0.0:50051 is plaintext off loop"),
            ({"grpc_listen": "127.0.0.1:1,[::]:2"}, "GRPC_LISTEN=[::]:2 is plaintext"),
            ({"allowed_origins": "*"}, "ALLOWED_ORIGINS has a wildcard"),
            ({"allowed_origins": "https://a.example,*"}, "has a wildcard"),
            (
                {"allowed_origins": "http://a.example"},
                "ALLOWED_ORIGINS has http://a.example, which is not https",
            ),
            ({"database_url": None}, "DATABASE_URL is not set"),
            ({"metrics_host": "10.0.0.1"}, "METRICS_HOST=10.0.0.1 is plaintext off"),
            ({"failpoints": "sealing.locked"}, "FAILPOINTS in production would have"),
        ],
    )
    def test_an_unsafe_setting_is_named_and_is_the_only_one_named(
        self, changes: dict[str, object], sentence: str
    ) -> None:
        (named,) = production(**changes).unsafe()
        assert sentence in named
        assert SECRET not in named

    def test_metrics_are_plaintext_beside_tls_too(self) -> None:
        tls = {"tls_cert_file": "/c.pem", "tls_key_file": "/k.pem"}
        exposed = {**tls, "grpc_listen": "0.0.0.0:1", "metrics_host": "10.0.0.1"}
        (named,) = production(**exposed).unsafe()
        assert named.startswith("METRICS_HOST=10.0.0.1 is plaintext off loopback")
        assert production(**exposed, allow_plaintext=True).unsafe() == []

    @pytest.mark.parametrize(
        "address",
        [
            "unix:/run/pourtier.sock",
            "unix:///run/pourtier.sock",
            "unix-abstract:pourtier",
            "vsock:2:1",
            "dns:///localhost:1",
            "ipv4:127.0.0.1:1",
            "nonsense",
            "127.0.0.1",
            ":50051",
            "127.0.0.1:x",
            "127.0.0.1:65536",
            "::1:50051",
            "127.0.0.1:1\n",
        ],
    )
    def test_the_native_listener_is_a_host_and_a_port(self, address: str) -> None:
        with pytest.raises(ConfigError, match=r"is not host:port \(.*GRPC_UNIX_SOCKET"):
            load(grpc_listen=("127.0.0.1:1", address))

    @pytest.mark.parametrize(
        "address", ["127.0.0.1:0", "localhost:1", "[::1]:65535", "a.b-c.example:1"]
    )
    def test_a_host_and_a_port_are_taken_as_they_are(self, address: str) -> None:
        assert load(grpc_listen=address).listen == (address,)

    def test_every_unsafe_setting_is_named(self) -> None:
        named = production(
            database_url=None,
            jwt_secret_key="secret",
            grpc_listen="0.0.0.0:1",
            allowed_origins="*,http://a.example",
        ).unsafe()
        subjects = ["GRPC_LISTEN", "ALLOWED_", "JWT_SECRET", "ALLOWED_", "DATABASE_"]
        assert len(named) == len(subjects)
        assert all(map(str.startswith, named, subjects))

    def test_development_may_be_careless(self) -> None:
        careless = load(
            jwt_algorithm="HS256",
            jwt_secret_key="secret",
            allowed_origins="http://a.example",
        )
        assert careless.unsafe() == []

    @pytest.mark.parametrize("env", ["development", "test", "staging", "production"])
    def test_a_wildcard_is_allowed_nowhere(self, env: str) -> None:
        (named,) = production(env=env, allowed_origins="*").unsafe()
        assert named.startswith("ALLOWED_ORIGINS has a wildcard")

    @pytest.mark.parametrize("env", ["development", "test", "staging", "production"])
    def test_a_plaintext_listener_off_loopback_must_be_allowed_everywhere(
        self, env: str
    ) -> None:
        listening = {"env": env, "grpc_listen": "0.0.0.0:1"}
        assert "ALLOW_PLAINTEXT" in production(**listening).unsafe()[0]
        assert production(**listening, allow_plaintext=True).unsafe() == []

    @pytest.mark.parametrize(
        ("address", "closed"),
        [
            ("127.0.0.1:50051", True),
            ("127.8.8.8:1", True),
            ("[::1]:50051", True),
            ("localhost:50051", True),
            ("0.0.0.0:50051", False),
            ("[::]:50051", False),
            ("10.0.0.1:50051", False),
            ("127.0.0.1.example.com:50051", False),
            ("pourtier:50051", False),
            (":50051", False),
            ("50051", False),
        ],
    )
    def test_loopback_is_told_from_the_rest(self, address: str, closed: bool) -> None:
        assert is_loopback(address) is closed


class TestSampling:
    def test_production_traces_and_logs_a_part_the_others_everything(self) -> None:
        assert (load().traced, load().logged_successes) == (1.0, 1.0)
        assert (production().traced, production().logged_successes) == (0.01, 0.1)

    def test_a_ratio_that_is_set_holds_everywhere(self) -> None:
        for of in (load, production):
            loaded = of(trace_sample_ratio=0, log_success_ratio=0.5)
            assert (loaded.traced, loaded.logged_successes) == (0, 0.5)
