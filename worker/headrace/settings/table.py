"""Every setting of a worker, once: variables, file, options, ``--print-config`` and the reference come from here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from headrace.queues import DEFAULT_SCHEMA
from headrace.settings.kinds import (
    Address,
    Boolean,
    Command,
    Integer,
    Kind,
    Number,
    OneOf,
    QueueUrl,
    Reference,
    Text,
    Url,
)

ROOT = "BackgroundJobs"
QUEUES = "Queues"
PREFIX = "BACKGROUND_JOBS__"

# As a JobWorkerPool takes them.
_WEEK_SECONDS = 7 * 24 * 3600

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting(Generic[Value]):
    """One setting."""

    path: str
    """Its key in the file, below `ROOT`; a dot leads into a section."""
    kind: Kind[Any]
    default: Value
    meaning: str
    """One sentence or two, for the reference and, where it has an option, for ``--help``."""
    otherwise: str = ""
    """What holds where nobody gives a value and no value stands for that."""
    option: str | None = None
    own_variable: str | None = None
    """A name beside that of its path. It goes before that."""
    is_per_queue: bool = True
    """Whether each of several queues may have its own."""

    @property
    def key(self) -> str:
        """What the path is known by, whatever its case."""
        return self.path.lower()

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return PREFIX + self.path.upper().replace(".", "__")

    @property
    def section(self) -> str:
        """Where it stands in the file; empty for what stands at the top."""
        return self.path.rpartition(".")[0]


# By --dsn and HEADRACE_DSN, whatever the backend.
_CONNECTION = Url(
    ("postgresql", "postgres", "memory", "sqs", "sqs+http"),
    "postgresql://USER:PASSWORD@HOST:PORT/DATABASE (an Npgsql string, Host=…;Username=…, is to be written that way), "
    "or sqs://HOST/ACCOUNT/NAME",
)
_DIRECT = Url(
    ("postgresql", "postgres"),
    "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, leading to the database itself; without a connection pooler, "
    "leave it out",
)
_REDIS = Url(
    ("redis", "rediss"),
    "redis://:PASSWORD@HOST:PORT/0, or rediss:// with TLS (HOST:PORT,password=… is to be written that way)",
)
_FILE = Text("the path of a file in PEM", metavar="FILE")

# Which queue, and what runs its jobs

QUEUE_NAME: Setting[str | None] = Setting(
    path="QueueName",
    kind=Text(),
    default=None,
    otherwise="the binding's",
    option="--queue",
    meaning="The queue whose jobs to run.",
)
NAMESPACE = Setting(
    path="Namespace",
    kind=Text(),
    default="",
    is_per_queue=False,
    meaning="The label `namespace` of the metrics, and what keeps queues of one name apart in a shared Redis.",
)
APP: Setting[str | None] = Setting(
    path="Handler.Python.App",
    kind=Reference(),
    default=None,
    option="--app",
    meaning="Jobs are functions: MODULE:ATTRIBUTE of their App.",
)
HTTP_URL: Setting[str | None] = Setting(
    path="Handler.Http.Url",
    kind=Url(("http", "https"), "http://HOST:PORT/PATH or https://…"),
    default=None,
    option="--http",
    meaning="Jobs are requests: the URL that each is posted to.",
)
HTTP_CA: Setting[str | None] = Setting(
    path="Handler.Http.CaFile",
    kind=_FILE,
    default=None,
    otherwise="the system's authorities",
    meaning="The authority that this URL's server is verified against.",
)
COMMAND: Setting[tuple[str, ...] | None] = Setting(
    path="Handler.Exec.Command",
    kind=Command(),
    default=None,
    option="--exec",
    meaning="Jobs are runs of a program: the program and its arguments; as an option, quoted as for a shell.",
)

# Where the queue is

PROVIDER: Setting[str | None] = Setting(
    path="Provider",
    kind=OneOf(("Postgres", "AwsSqs")),
    default=None,
    otherwise="what the connection, the queue URL or the binding is",
    meaning="What holds the queue. Needed where both a connection to PostgreSQL and a queue URL are given.",
)
CONNECTION: Setting[str | None] = Setting(
    path="Postgres.ConnectionString",
    kind=_CONNECTION,
    default=None,
    otherwise="the binding's",
    option="--dsn",
    own_variable="HEADRACE_DSN",
    meaning="postgresql://USER:PASSWORD@HOST:PORT/DATABASE; as an option, or in HEADRACE_DSN, sqs://HOST/ACCOUNT/NAME "
    "as well. An option shows in the process list: rather set the variable.",
)
DIRECT_CONNECTION: Setting[str | None] = Setting(
    path="Postgres.DirectConnectionString",
    kind=_DIRECT,
    default=None,
    otherwise="the connection itself",
    option="--direct-dsn",
    meaning="Past a connection pooler, for what must be prompt: taking jobs, heartbeats, being told of new jobs.",
)
SCHEMA = Setting(
    path="Postgres.Schema",
    kind=Text(),
    default=DEFAULT_SCHEMA,
    option="--schema",
    meaning="The schema that holds the queues.",
)
POSTGRES_CA: Setting[str | None] = Setting(
    path="Postgres.CaFile",
    kind=_FILE,
    default=None,
    otherwise="what the connection string says of TLS",
    option="--ca",
    meaning="The authority that the server is verified against.",
)

# How jobs are taken, and how long they may take

MODE = Setting(
    path="Mode",
    kind=OneOf(("Polling", "MessageQueue")),
    default="MessageQueue",
    option="--mode",
    meaning="MessageQueue: be told of new jobs beside looking for them. Polling: look alone; not with AwsSqs.",
)
MAX_CONCURRENT_JOBS = Setting(
    path="MaxConcurrentJobs",
    kind=Integer(at_least=1),
    default=10,
    option="--concurrency",
    meaning="How many jobs run at a time.",
)
SHARED_SLOTS: Setting[int | None] = Setting(
    path="SharedSlots",
    kind=Integer(at_least=1),
    default=None,
    otherwise="each queue has its own",
    is_per_queue=False,
    meaning="How many jobs run at a time in all `Queues` together. A job of a later one is begun while those before it "
    "have none that could start.",
)
POLL_INTERVAL = Setting(
    path="PollIntervalSeconds",
    kind=Number(above=0),
    default=5.0,
    option="--poll-interval",
    meaning="Seconds after which an idle worker looks for jobs again.",
)
JOB_TIMEOUT_MINUTES = Setting(
    path="JobTimeoutMinutes", kind=Number(above=0), default=30.0, meaning="How long an attempt may run."
)
JOB_TIMEOUT_SECONDS: Setting[float | None] = Setting(
    path="JobTimeoutSeconds",
    kind=Number(above=0),
    default=None,
    otherwise="JobTimeoutMinutes",
    option="--job-timeout",
    meaning="Seconds that an attempt may run. It goes before the minutes.",
)
DRAIN_TIMEOUT = Setting(
    path="DrainTimeoutSeconds",
    kind=Number(at_least=0),
    default=300.0,
    option="--drain-timeout",
    is_per_queue=False,
    meaning="Seconds that running jobs may take to finish after SIGTERM; then they are handed back uncharged.",
)
VISIBILITY_TIMEOUT: Setting[float | None] = Setting(
    path="VisibilityTimeoutSeconds",
    kind=Number(above=0),
    default=None,
    otherwise="the queue's own, 1800 if nobody set it",
    meaning="The queue's own to say. Given here, it is compared, and a difference is logged.",
)
MAX_RETRIES: Setting[int | None] = Setting(
    path="MaxRetries",
    kind=Integer(at_least=0, at_most=999),
    default=None,
    otherwise="the queue's own, 3 if nobody set it",
    meaning="The queue's own to say. Given here, it is compared, and a difference is logged. Of a queue in SQS that "
    "has none of our tags, what is given here holds.",
)
RETRY_INITIAL_DELAY = Setting(
    path="Retry.InitialDelaySeconds",
    kind=Number(at_least=0, at_most=_WEEK_SECONDS),
    default=1.0,
    meaning="How long a job waits after its first failed attempt.",
)
RETRY_MULTIPLIER = Setting(
    path="Retry.Multiplier",
    kind=Number(at_least=1, at_most=100),
    default=2.0,
    meaning="How much longer after each further one.",
)
RETRY_MAX_DELAY = Setting(
    path="Retry.MaxDelaySeconds",
    kind=Number(at_least=0, at_most=_WEEK_SECONDS),
    default=600.0,
    meaning="How long at most.",
)
RETRY_JITTER = Setting(
    path="Retry.Jitter",
    kind=Number(at_least=0, at_most=1),
    default=0.2,
    meaning="The part of the delay that chance decides.",
)

# Idempotency

ENABLE_IDEMPOTENCY: Setting[bool | None] = Setting(
    path="EnableIdempotency",
    kind=Boolean(),
    default=None,
    otherwise="true where a Redis is given",
    meaning="Whether a job that is recorded as finished is not run again.",
)
IDEMPOTENCY_TTL = Setting(
    path="IdempotencyTtlDays", kind=Number(above=0), default=7.0, meaning="How long that is recorded."
)
ON_UNAVAILABLE = Setting(
    path="Idempotency.OnUnavailable",
    kind=OneOf(("Retry", "Proceed")),
    default="Retry",
    meaning="While Redis is away. Retry: jobs wait, and nothing runs twice. Proceed: jobs run, and some may run twice.",
)
REDIS_CONNECTION: Setting[str | None] = Setting(
    path="Redis.ConnectionString",
    kind=_REDIS,
    default=None,
    otherwise="the binding's of type redis; without one, none",
    option="--redis",
    is_per_queue=False,
    meaning="Where finished jobs are recorded: redis://:PASSWORD@HOST:PORT/0. An option shows in the process list: "
    "rather set the variable.",
)
REDIS_MODE = Setting(
    path="Redis.Mode",
    kind=OneOf(("Standalone", "Sentinel", "Cluster")),
    default="Standalone",
    is_per_queue=False,
    meaning="What the URL leads to.",
)
SENTINEL_MASTER: Setting[str | None] = Setting(
    path="Redis.SentinelMaster",
    kind=Text(),
    default=None,
    is_per_queue=False,
    meaning="The name that the sentinels know the master by.",
)
REDIS_CA: Setting[str | None] = Setting(
    path="Redis.CaFile",
    kind=_FILE,
    default=None,
    otherwise="the system's authorities",
    is_per_queue=False,
    meaning="The authority that the server is verified against.",
)

# Amazon SQS. Credentials are no settings: AWS's own variables, a role, or a binding.

QUEUE_URL: Setting[str | None] = Setting(
    path="AwsSqs.QueueUrl",
    kind=QueueUrl(),
    default=None,
    otherwise="the binding's",
    meaning="The queue, as SQS names it: https://sqs.REGION.amazonaws.com/ACCOUNT/NAME.",
)
DEAD_LETTER_QUEUE_URL: Setting[str | None] = Setting(
    path="AwsSqs.DeadLetterQueueUrl",
    kind=QueueUrl(),
    default=None,
    otherwise="that of the queue's redrive policy",
    meaning="Its dead-letter queue.",
)
REGION: Setting[str | None] = Setting(
    path="AwsSqs.Region",
    kind=Text(),
    default=None,
    otherwise="the URL's, else `AWS_REGION`, else `AWS_DEFAULT_REGION`",
    meaning="The region of both.",
)
WAIT_TIME = Setting(
    path="AwsSqs.WaitTimeSeconds",
    kind=Integer(at_least=0, at_most=20),
    default=20,
    meaning="How long a poll waits for the first message. An idle worker polls once in this time: shorter costs more.",
)
MAX_NUMBER_OF_MESSAGES = Setting(
    path="AwsSqs.MaxNumberOfMessages",
    kind=Integer(at_least=1, at_most=10),
    default=10,
    meaning="How many messages a poll brings at most.",
)
USE_FIFO_QUEUE = Setting(
    path="AwsSqs.UseFifoQueue",
    kind=Boolean(),
    default=False,
    meaning="Whether the queue is a FIFO queue. Standard queues alone can be used yet: true is refused.",
)
ENDPOINT_URL: Setting[str | None] = Setting(
    path="AwsSqs.EndpointUrl",
    kind=Url(("https", "http"), "https://HOST:PORT or http://HOST:PORT"),
    default=None,
    otherwise="AWS's for the region; the queue URL's own where that is no host of AWS",
    meaning="Where the service answers: a VPC endpoint, or another server of its protocol.",
)
SQS_CLIENT = Setting(
    path="AwsSqs.Client",
    kind=OneOf(("signed", "boto")),
    default="signed",
    meaning="signed: calls for every job are signed and sent by our own code. boto: every call goes through aioboto3.",
)
COUNT_INTERVAL = Setting(
    path="AwsSqs.CountIntervalSeconds",
    kind=Number(at_least=0),
    default=60.0,
    meaning="How often this worker counts the queue, for its metrics. 0: never, as under the operator, which counts.",
)

SQS: tuple[Setting[Any], ...] = (
    *(QUEUE_URL, DEAD_LETTER_QUEUE_URL, REGION, ENDPOINT_URL),
    *(WAIT_TIME, MAX_NUMBER_OF_MESSAGES, USE_FIFO_QUEUE, COUNT_INTERVAL, SQS_CLIENT),
)

ACCESS_KEY_ID: Setting[str | None] = Setting(
    path="AwsSqs.AccessKeyId", kind=Text(may_hold_secrets=True), default=None, meaning="A binding's alone."
)
SECRET_ACCESS_KEY: Setting[str | None] = Setting(
    path="AwsSqs.SecretAccessKey", kind=Text(may_hold_secrets=True), default=None, meaning="A binding's alone."
)
SESSION_TOKEN: Setting[str | None] = Setting(
    path="AwsSqs.SessionToken", kind=Text(may_hold_secrets=True), default=None, meaning="A binding's alone."
)

# The process

METRICS_ADDRESS = Setting(
    path="MetricsAddress",
    kind=Address(),
    default=("0.0.0.0", 8080),  # noqa: S104 - the cluster scrapes it
    option="--metrics-address",
    own_variable="HEADRACE_METRICS_ADDRESS",
    is_per_queue=False,
    meaning="Where /metrics, /healthz and /readyz are served.",
)
STUCK_AFTER = Setting(
    path="StuckAfterSeconds",
    kind=Number(above=0),
    default=30.0,
    own_variable="HEADRACE_STUCK_AFTER_SECONDS",
    is_per_queue=False,
    meaning="Seconds that the worker's event loop may stand still. Until then its jobs are kept for it; then /healthz "
    "fails, and the pod is restarted.",
)
LOG_FORMAT = Setting(
    path="LogFormat",
    kind=OneOf(("text", "json")),
    default="text",
    option="--log-format",
    own_variable="HEADRACE_LOG_FORMAT",
    is_per_queue=False,
    meaning="How log lines are written to standard error.",
)
LOG_LEVEL = Setting(
    path="LogLevel",
    kind=OneOf(("DEBUG", "INFO", "WARNING", "ERROR")),
    default="INFO",
    own_variable="HEADRACE_LOG_LEVEL",
    is_per_queue=False,
    meaning="What is logged: this and worse.",
)
WORKER_NAME: Setting[str | None] = Setting(
    path="WorkerName",
    kind=Text(),
    default=None,
    otherwise="host name and process id",
    own_variable="HEADRACE_WORKER_NAME",
    is_per_queue=False,
    meaning="What people see beside the jobs that it holds.",
)

GROUPS: dict[str, tuple[Setting[Any], ...]] = {
    "Which jobs, and what runs them": (QUEUE_NAME, NAMESPACE, APP, HTTP_URL, HTTP_CA, COMMAND),
    "Where the queue is": (PROVIDER, CONNECTION, DIRECT_CONNECTION, SCHEMA, POSTGRES_CA),
    "How jobs are run": (
        *(MODE, MAX_CONCURRENT_JOBS, SHARED_SLOTS, POLL_INTERVAL, JOB_TIMEOUT_MINUTES, JOB_TIMEOUT_SECONDS),
        *(DRAIN_TIMEOUT, VISIBILITY_TIMEOUT, MAX_RETRIES),
        *(RETRY_INITIAL_DELAY, RETRY_MULTIPLIER, RETRY_MAX_DELAY, RETRY_JITTER),
    ),
    "Idempotency": (
        *(ENABLE_IDEMPOTENCY, IDEMPOTENCY_TTL, ON_UNAVAILABLE),
        *(REDIS_CONNECTION, REDIS_MODE, SENTINEL_MASTER, REDIS_CA),
    ),
    "Amazon SQS": SQS,
    "The process": (METRICS_ADDRESS, STUCK_AFTER, LOG_FORMAT, LOG_LEVEL, WORKER_NAME),
}

TABLE: tuple[Setting[Any], ...] = tuple(setting for group in GROUPS.values() for setting in group)
BY_KEY = {setting.key: setting for setting in TABLE}

CREDENTIALS = (ACCESS_KEY_ID, SECRET_ACCESS_KEY, SESSION_TOKEN)
"""In no table: what is given for them anywhere but in a binding is refused."""
NO_SETTINGS = {setting.key for setting in CREDENTIALS} | {"awssqs.accesskey", "awssqs.secretkey"}
"""What people may look for, and must not find."""

# Of each of these, whoever gives one speaks for all: an option --exec ends what a file says of an App.
CHOICES = (
    frozenset({APP.key, HTTP_URL.key, COMMAND.key}),
    frozenset({JOB_TIMEOUT_MINUTES.key, JOB_TIMEOUT_SECONDS.key}),
)


def default_words(setting: Setting[Any]) -> str:
    """What holds where nobody gives a value, for people; empty where nothing does."""
    if setting.default is None or setting.default == "":
        return setting.otherwise
    plain = setting.kind.plain(setting.default)
    return str(plain).lower() if isinstance(plain, bool) else str(plain)
