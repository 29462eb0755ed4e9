"""Every knob of the service, once: environment variable, command-line flag, check and help."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    CliApp,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from models.manifest import NAME_PATTERN
from service.cpus import usable_cpus
from service.environment import PREFIX, own_variables

MIB, GIB = 2**20, 2**30
#: A body of clips or scans may be this much larger than one of them: the form around it, or
#: several small ones.
FORM_MIB = 1.0
#: One of several devices of a kind.
NUMBERED = re.compile("(cuda|cpu):(0|[1-9][0-9]?)")
HTTP_URL = re.compile(r"https?://[^/\s?#@]+(/[^\s?#]*)?")
SHADOW = re.compile(f"({NAME_PATTERN})@({NAME_PATTERN})=([0-9]*\\.?[0-9]+)", re.ASCII)
ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\sA-Z?#@]+")


def _split(value: Any) -> Any:
    """Several values in one text, apart by commas or spaces; an empty text stays one value."""
    return tuple(re.split(r"[\s,]+", value.strip())) if isinstance(value, str) else value


class SettingsError(ValueError):
    """The settings cannot be used. The message is written for the operator."""


class OwnVariables(EnvSettingsSource):
    """The environment without what a cluster has put there."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): value for name, value in own_variables().items()}


@dataclass(frozen=True, slots=True)
class Limits:
    """Of requests of one modality."""

    files: int
    file_bytes: int
    body_bytes: int
    decode_seconds: float  # wall time, of one file
    upload_seconds: float  # of the body, from the start of the request
    deadline_seconds: float  # of the answer, from the start of the request


class Settings(BaseSettings):
    """Serve bundles over HTTP: media in, ranked labels out.

    Every flag can also be given as an environment variable: --max-batch is LIERE_MAX_BATCH.
    A flag wins over a variable.

    Other commands, each with its own --help: python -m service classify FILE... answers without a
    server, bundles chooses which version of a bundle answers, jobs shows and cancels the jobs of
    a server, new-key makes a bearer key, shadow tells how far a candidate version agrees with the
    one that answers, health asks a running server whether it is ready.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        cli_prog_name="python -m service",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
    )

    bundles: Path = Field(Path("bundles"), description="folder that holds one folder per bundle")
    default_bundle: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        (),
        description="bundle that answers requests of its modality that name none; several, one for "
        "each modality, apart by commas. Without a word the first folder by name, refused or not",
    )
    host: str = Field(
        "127.0.0.1",
        description="address to listen on; 0.0.0.0 for all, which needs keys or --open",
    )
    port: int = Field(8000, ge=0, le=65535, description="TCP port; 0 takes a free one")
    grpc_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="TCP port of the Open Inference Protocol over gRPC, on the same address; 0 "
        "takes a free one. Without it there is none",
    )
    keys_file: Path | None = Field(
        None,
        description="file of bearer keys, a line each: lower-case hex SHA-256 of the key, then if "
        "you like a name for the log, scopes=classify,metrics,admin (without it the first two), "
        "rate=N/s, concurrency=N; # starts a comment; python -m service new-key makes a line; "
        "SIGHUP reads the file again",
    )
    key_sha256: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        (),
        repr=False,
        description="SHA-256 of a bearer key in lower-case hex; several apart by commas",
    )
    open: bool = Field(
        False, description="serve without keys on an address that other machines reach"
    )
    open_metrics: bool = Field(False, description="answer /metrics without a key")
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        (),
        description="origins whose pages may ask from a browser, like https://app.example; several "
        "apart by commas; * is every page, which then still needs a key where there are keys",
    )
    device: str = Field(
        "auto",
        description="where graphs run; auto takes a GPU if it works, cuda or cuda:N insists on "
        "one, cuda:0,cuda:1 has the work done by several, each GPU named once; cpu:0,cpu:1 the "
        "same by the NUMA nodes of a machine with several sockets",
    )
    cpus: int = Field(
        0,
        ge=0,
        le=1024,
        description="CPUs that lanes, threads, decode workers and predictions count with, where "
        "others are to have the rest; 0 is as many as this process may use",
    )
    lanes: int = Field(
        0,
        ge=0,
        le=256,
        description="batches that run at the same time on one device; 0 is measured at start on a "
        "CPU, lanes of one thread against one lane of all, and is one on a GPU",
    )
    threads: int = Field(
        0,
        ge=0,
        le=1024,
        description="threads that compute one batch on the CPU; 0 shares the CPUs that this "
        "process may use, by its affinity and by a container's limit, among the lanes",
    )
    max_batch: int = Field(
        32, ge=1, le=4096, description="most images, scans or views of clips in one run of a graph"
    )
    batch_tokens: int = Field(
        2**14,
        ge=1,
        description="most tokens of all rows of one run, whose attention has to fit into memory; "
        "one image, scan or view always goes",
    )
    batch_seconds: float = Field(
        0.05,
        gt=0,
        le=60,
        description="predicted time of one run of a graph, which a shorter item may have to wait "
        "for; one image, scan or view always goes",
    )
    max_wait: float = Field(
        0.0,
        ge=0,
        le=600,
        description="seconds of work that may stand before a request; more is answered 429. 0 is "
        "what eight such items take, but at least 0.5 and at most 2",
    )
    decode_workers: int = Field(
        0,
        ge=0,
        le=256,
        description="processes that decode uploads; 0 is one more than CPUs, as for threads: where "
        "several modalities or jobs are served one is kept for small files",
    )
    decode_seconds: float = Field(
        5.0, gt=0, le=600, description="wall time for one image, then its worker is killed"
    )
    slow_decode_seconds: float = Field(
        20.0, gt=0, le=600, description="the same for one clip or one scan"
    )
    max_file_mib: float = Field(20.0, gt=0, description="largest image file, in MiB")
    max_video_mib: float = Field(
        100.0, gt=0, le=100, description="largest video file, in MiB; no larger ones can be read"
    )
    max_volume_mib: float = Field(
        256.0, gt=0, le=256, description="largest volume file, in MiB; no larger ones can be read"
    )
    max_body_mib: float = Field(
        32.0,
        gt=0,
        description="largest request body of images, in MiB; one of clips or scans may be 1 MiB "
        "larger than the largest file",
    )
    max_files: int = Field(16, ge=1, description="most files in one request")
    max_in_flight: int = Field(
        1024,
        ge=1,
        description="requests inside at once, uploads among them; one more is answered 429",
    )
    max_in_flight_mib: float = Field(
        512.0, gt=0, description="bytes of request bodies inside at once, in MiB; more is 429"
    )
    deadline_seconds: float = Field(
        30.0, gt=0, description="time for one request from its first byte to its answer"
    )
    upload_seconds: float = Field(
        20.0,
        gt=0,
        validate_default=True,
        description="time for the body of one request, from the start of the request; at most "
        "deadline_seconds",
    )
    min_upload_kib: float = Field(
        4.0,
        gt=0,
        description="KiB that a body must bring each second, after 5 seconds; a slower one is 408",
    )
    slow_deadline_seconds: float = Field(
        120.0, gt=0, description="deadline_seconds of requests with clips or scans"
    )
    slow_upload_seconds: float = Field(
        60.0,
        gt=0,
        validate_default=True,
        description="upload_seconds of requests with clips or scans; at most slow_deadline_seconds",
    )
    head_seconds: float = Field(
        10.0,
        gt=0,
        le=600,
        description="time for the head of one request, from its first byte, and for the first byte "
        "of a new connection",
    )
    shadow: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        (),
        description="version that sees copies of a share of what another one answers, once that "
        "does: NAME@VERSION=SHARE, like digits@2=0.1; several, one for each bundle, apart by "
        "commas. See docs/shadow.md",
    )
    shadow_mib: float = Field(
        256.0, ge=0,
        description="bytes of copies that wait for such versions, in MiB; more are let go of",
    )
    jobs: Path | None = Field(
        None,
        description="folder where jobs, their files and their answers are kept, for /v1/jobs; one "
        "server may work on it at a time. Without it there are no jobs",
    )
    jobs_max_gib: float = Field(
        16.0, gt=0,
        description="bytes that the files and answers of all jobs may have, in GiB; more is 507",
    )
    jobs_keep_hours: float = Field(
        168.0, ge=0, description="hours after its end in which a job's answers can be read"
    )
    jobs_paths: Path | None = Field(
        None,
        description="folder below which jobs may name files instead of sending them; whoever may "
        "send jobs has all of its files answered",
    )
    probe_seconds: float = Field(
        60.0,
        ge=0,
        le=86_400,
        description="a device that had nothing to do for so long replays a golden, without which "
        "/health/ready is 503 soon after; 0 for never",
    )
    retry_start: bool = Field(
        False,
        description="where bundles, keys file, device or address are not there at start, try again "
        "after a while that grows to a minute, instead of ending; for containers. A wrong setting "
        "ends the server: so does a default_bundle that is none of the bundles that are there",
    )
    ready: Literal["any", "all"] = Field(
        "any",
        description="whether /health/ready is 200 when any bundle is ready, or only when all that "
        "are there are",
    )
    drain_delay: float = Field(
        0.0,
        ge=0,
        le=600,
        description="seconds after SIGTERM in which requests are still taken while /health/ready "
        "is 503, for whoever sends them to look elsewhere; a second signal ends them",
    )
    grace_seconds: int = Field(
        20, ge=0, description="time that requests get to finish after SIGTERM and its drain_delay"
    )
    access_log: bool = Field(
        False, description="log one line per request, without queries, names of files or headers"
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="how the log on stderr is written; json is one object a line"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least important message that is logged"
    )
    otel_endpoint: str = Field(
        "",
        description="URL that takes OpenTelemetry's spans (OTLP over HTTP), like "
        "http://127.0.0.1:4318/v1/traces; needs the extra otel. Without it nothing is traced",
    )
    otel_share: float = Field(
        1.0,
        ge=0,
        le=1,
        description="share of requests without a traceparent whose traces begin here; of the "
        "others that header says whether they are told",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Values that are given, then the operator's variables; there is no third source."""
        return init_settings, OwnVariables(settings_cls)

    @field_validator("upload_seconds", "slow_upload_seconds")
    @classmethod
    def _end_uploads_in_time(cls, value: float, info: ValidationInfo) -> float:
        name = str(info.field_name).replace("upload", "deadline")
        if value > (deadline := info.data.get(name, value)):
            raise ValueError(f"expected at most {name}, which is {deadline:g}")
        return value

    @field_validator("device")
    @classmethod
    def _check_device(cls, value: str) -> str:
        names = value.split(",")
        kinds = {match[1] if (match := NUMBERED.fullmatch(one)) else None for one in names}
        several = len(kinds) == 1 and None not in kinds and len(set(names)) == len(names)
        if value not in ("auto", "cpu", "cuda") and not several:
            raise ValueError(
                "expected auto, cpu, cuda, or cuda:N once for each GPU, or cpu:N once for each "
                "NUMA node, with commas"
            )
        return value

    @field_validator("otel_endpoint")
    @classmethod
    def _check_endpoint(cls, value: str) -> str:
        if value and not HTTP_URL.fullmatch(value):
            raise ValueError("expected a URL like http://127.0.0.1:4318/v1/traces")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        origins = tuple(one for one in values if one)  # an empty variable is none
        for one in origins:
            if not ORIGIN.fullmatch(one):
                raise ValueError(
                    "expected origins as browsers write them, like https://app.example or "
                    "http://localhost:3000 (in small letters, without a path), or *"
                )
        return origins

    @field_validator("shadow")
    @classmethod
    def _check_shadow(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        given = tuple(one for one in values if one)  # an empty variable is none
        for one in given:
            found = SHADOW.fullmatch(one)
            if found is None or float(found[3]) > 1:
                raise ValueError("expected NAME@VERSION=SHARE, with a share from 0 to 1")
        if len({one.partition("@")[0] for one in given}) < len(given):
            raise ValueError("expected one version for each bundle")
        return given

    @property
    def shadows(self) -> list[tuple[str, str, float]]:
        """Bundle, version and share of each ``shadow``."""
        found = (SHADOW.fullmatch(one) for one in self.shadow)
        return [(one[1], one[2], float(one[3])) for one in found if one]

    @property
    def shadow_bytes(self) -> int:
        """That copies may hold."""
        return int(self.shadow_mib * MIB)

    @property
    def has_keys(self) -> bool:
        """Whether requests need a key."""
        return bool(self.key_sha256) or self.keys_file is not None

    @property
    def cpu_count(self) -> int:
        """CPUs to count with."""
        usable = usable_cpus()
        return min(self.cpus, usable) if self.cpus else usable

    @property
    def max_in_flight_bytes(self) -> int:
        return int(self.max_in_flight_mib * MIB)

    def most_rows(self, tokens: int) -> int:
        """Of one run of a graph with so many tokens a row."""
        return max(1, min(self.max_batch, self.batch_tokens // tokens))

    def limits(self, modality: str) -> Limits:
        """What requests of a modality are held to."""
        if modality == "image":
            file_mib, body_mib = self.max_file_mib, self.max_body_mib
            times = self.decode_seconds, self.upload_seconds, self.deadline_seconds
        else:
            file_mib = self.max_video_mib if modality == "video" else self.max_volume_mib
            body_mib = file_mib + FORM_MIB
            times = self.slow_decode_seconds, self.slow_upload_seconds, self.slow_deadline_seconds
        # A larger one would never find room.
        body_bytes = min(int(body_mib * MIB), self.max_in_flight_bytes)
        return Limits(self.max_files, int(file_mib * MIB), body_bytes, *times)


def read_settings(arguments: Sequence[str]) -> Settings:
    """Settings from the command line and the environment.

    Raises:
        SettingsError: a value that does not fit, or an environment variable nobody reads.
    """
    _check_environment()
    try:
        return CliApp.run(Settings, cli_args=list(arguments))
    except ValidationError as error:
        raise _first(error) from None


def make_settings(**values: Any) -> Settings:
    """Settings from values and, for the others, the environment; SettingsError as above."""
    _check_environment()
    try:
        return Settings(**values)
    except ValidationError as error:
        raise _first(error) from None


def make_offline_settings(**values: Any) -> Settings:
    """As ``make_settings``, for a command that answers without a server: nobody comes in.

    Lanes are not measured, which takes longer than most answers.
    """
    alone: dict[str, Any] = {"keys_file": None, "key_sha256": (), "lanes": 1}
    return make_settings(log_level="warning", log_format="text", **alone, **values)


def _first(error: ValidationError) -> SettingsError:
    """The first of the mistakes, as one line."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return SettingsError(f"{field}: {message}, got {first['input']!r}")


def _check_environment() -> None:
    """A mistyped variable must not be ignored."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    if unknown := sorted(set(own_variables()) - known):
        raise SettingsError(f"unknown variable {unknown[0]}; known: {', '.join(sorted(known))}")
