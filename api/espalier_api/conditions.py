"""Every condition type and every reason, each with what it means to a person. docs/api.md is generated from here.

Conditions are observations computed anew on every pass, never a state machine. A reason is a constant, so a typo is an import error;
it is a plain string wherever one is needed. Events use the same reasons.
"""

from __future__ import annotations

from typing import Final, Literal, Self

from pydantic import Field

from espalier_api.base import StatusModel
from espalier_api.durations import Timestamp

ConditionStatus = Literal["True", "False", "Unknown"]


class Condition(StatusModel):
    """One observation, in the shape of metav1.Condition."""

    type: str = Field(min_length=1, max_length=316)
    """Name of what is observed, e.g. `Ready`."""
    status: ConditionStatus
    """True, False or Unknown."""
    reason: str = Field(min_length=1, max_length=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")
    """Why, as one CamelCase word from the documented list."""
    message: str = Field(default="", max_length=32768)
    """Why, for a person: object, field, what was wrong, what to do."""
    last_transition_time: Timestamp
    """When `status` last changed."""
    observed_generation: int = Field(default=0, ge=0)
    """The generation of the spec that this was observed for."""


class Word(str):
    """A documented name: a string that knows its meaning."""

    __slots__ = ("meaning",)
    meaning: str

    def __new__(cls, name: str, meaning: str) -> Self:
        """Make the string and remember what it means."""
        word = super().__new__(cls, name)
        word.meaning = meaning
        return word


class Reason(Word):
    """Why a condition has its status, or why an event was sent."""

    __slots__ = ()


# --- types: all kinds ------------------------------------------------------------------------------------------------
READY: Final = Word("Ready", "The summary: the object does what its spec asks for, now.")

# --- types: RegularizedModel -----------------------------------------------------------------------------------------
SPEC_VALID: Final = Word(
    "SpecValid", "Schema, CEL and every validator rule accept the spec; a False lists each rule with its fix."
)
DATA_RESOLVED: Final = Word("DataResolved", "The snapshot was listed and its digest is the pinned or recorded one.")
TRAINED: Final = Word("Trained", "The version for this spec has been trained.")
GATES_PASSED: Final = Word("GatesPassed", "The version for this spec meets every gate.")
PUBLISHED: Final = Word("Published", "The version's artifact is complete in the store and its digest is recorded.")

# --- types: CanaryRollout --------------------------------------------------------------------------------------------
AVAILABLE: Final = Word("Available", "The stable version serves all traffic that is not the canary's.")
PROGRESSING: Final = Word("Progressing", "A canary is on its way; False tells why none is, or what it waits for.")
ANALYSIS_HEALTHY: Final = Word(
    "AnalysisHealthy",
    "Every SLI can be judged; False when data or the source are missing (then nothing is rolled back).",
)
ROUTE_ACCEPTED: Final = Word("RouteAccepted", "The router accepted what was asked for and can do every declared step.")

# --- types: RetrainPolicy --------------------------------------------------------------------------------------------
TRIGGERS_HEALTHY: Final = Word(
    "TriggersHealthy", "Every trigger can be evaluated; a silent one is named and never fires."
)
SUPPRESSED: Final = Word("Suppressed", "A suppression window or `frozen` holds requests back.")
COOLING_DOWN: Final = Word(
    "CoolingDown", "The last request is younger than the cooldown, or the day's limit is reached."
)
STOPPED: Final = Word("Stopped", "Too many requests failed in a row; a person has to look.")

# --- reasons: the spec -----------------------------------------------------------------------------------------------
VALID: Final = Reason("Valid", "No rule objects.")
VALID_WITH_WARNINGS: Final = Reason(
    "ValidWithWarnings", "Accepted; the message lists what a careful colleague would ask about."
)
INVALID_SPEC: Final = Reason(
    "InvalidSpec", "A field is wrong in a way that the API server could not see; the message names it."
)
INCOMPATIBLE_REGULARIZERS: Final = Reason(
    "IncompatibleRegularizers", "Validator rules refuse the combination; each is listed by id with its fix."
)
NOT_YET_IMPLEMENTED: Final = Reason(
    "NotYetImplemented", "The field is part of the API but this release cannot honour it; refused, never ignored."
)
MODEL_NOT_FOUND: Final = Reason("ModelNotFound", "`modelRef` names no RegularizedModel in this namespace.")
NAME_CONFLICT: Final = Reason("NameConflict", "Another object already owns the name of a child; rename one of them.")
REFERENCE_NOT_FOUND: Final = Reason(
    "ReferenceNotFound", "A named Secret, Gateway, policy, model or version does not exist."
)

# --- reasons: data ---------------------------------------------------------------------------------------------------
RESOLVED: Final = Reason("Resolved", "The snapshot's digest is known.")
RESOLVING: Final = Reason("Resolving", "The snapshot is being listed.")
SNAPSHOT_NOT_FOUND: Final = Reason("SnapshotNotFound", "No object lies below the snapshot's prefix.")
SNAPSHOT_CHANGED: Final = Reason(
    "SnapshotChanged",
    "The data is not what the digest pins; pin the new digest or restore the data. Nothing is published.",
)
SNAPSHOT_TOO_LARGE: Final = Reason(
    "SnapshotTooLarge", "More objects than a listing may have; merge files or split the prefix."
)
STORE_UNAVAILABLE: Final = Reason(
    "StoreUnavailable", "The object store does not answer; tried again with backoff, nothing is decided meanwhile."
)
ACCESS_DENIED: Final = Reason(
    "AccessDenied", "The operator's identity may not list the bucket; grant list and read to it."
)
BUCKET_NOT_FOUND: Final = Reason("BucketNotFound", "The bucket in the URI does not exist.")

# --- reasons: training -----------------------------------------------------------------------------------------------
TRAINING: Final = Reason("Training", "A Job is training the version.")
QUEUED: Final = Reason("Queued", "The Job is suspended in its queue.")
WAITING_FOR_RETRY: Final = Reason(
    "WaitingForRetry", "The last attempt failed for a reason that may pass; the next starts after a backoff."
)
WAITING_FOR_DATA: Final = Reason("WaitingForData", "Training starts when the snapshot is resolved.")
WAITING_FOR_REFERENCE: Final = Reason(
    "WaitingForReference",
    "Training starts when the model that a block refers to has the version; the message names both.",
)
REFERENCE_UNREADABLE: Final = Reason(
    "ReferenceUnreadable", "The model that a block refers to lies in another bucket or behind another Secret."
)
WAITING_FOR_SPEC: Final = Reason("WaitingForSpec", "Training starts when the spec is valid.")
TRAINING_SUCCEEDED: Final = Reason("TrainingSucceeded", "The trainer ended with 0 and its artifact is complete.")
INVALID_CONFIG: Final = Reason("InvalidConfig", "The trainer refused the configuration (exit 42). Final.")
DIVERGED: Final = Reason("Diverged", "The objective became NaN or infinite (exit 43, failure mode F7). Final.")
DATA_PROBLEM: Final = Reason("DataProblem", "Digest, schema or a label does not fit (exit 44). Final.")
PREEMPTED: Final = Reason(
    "Preempted", "The attempt was stopped with a checkpoint (exit 75); it goes on elsewhere and costs no retry."
)
INFRASTRUCTURE_FAILURE: Final = Reason(
    "InfrastructureFailure", "The attempt ended for a reason outside the configuration; retried with backoff."
)
OOM_KILLED: Final = Reason(
    "OOMKilled", "The container needed more memory than its limit; raise training.resources or lower batchSize."
)
EVICTED: Final = Reason("Evicted", "The node evicted the pod; retried elsewhere.")
NODE_LOST: Final = Reason("NodeLost", "The pod's node vanished; retried elsewhere.")
DEADLINE_EXCEEDED: Final = Reason("DeadlineExceeded", "The attempt took longer than training.deadline.")
IMAGE_PULL_BACK_OFF: Final = Reason(
    "ImagePullBackOff", "The image cannot be pulled; check its name and the pull secret."
)
UNSCHEDULABLE: Final = Reason("Unschedulable", "No node fits the pod; the message is the scheduler's.")
CREATE_CONTAINER_ERROR: Final = Reason(
    "CreateContainerError", "The container cannot be created: most often a missing Secret or key."
)
RETRIES_EXHAUSTED: Final = Reason(
    "RetriesExhausted",
    "Every attempt failed; the message tells the last one's reason. Change the spec or ask for a retrain.",
)
RESULT_MISSING: Final = Reason(
    "ResultMissing",
    "The trainer ended with 0 but left no readable result or manifest; treated as an infrastructure failure.",
)
SPEC_CHANGED: Final = Reason(
    "SpecChanged", "The spec changed while the version was training; its Job was stopped for the new one."
)
JOB_DELETED: Final = Reason("JobDeleted", "The Job vanished before its result was read; the attempt is repeated.")

# --- reasons: versions -----------------------------------------------------------------------------------------------
GATES_MET: Final = Reason("GatesMet", "Every gate is met.")
GATES_FAILED: Final = Reason("GatesFailed", "At least one gate is not met; the message gives value and bound of each.")
GATE_UNKNOWN: Final = Reason("GateUnknown", "A gate names a metric or group that the version did not record.")
WAITING_FOR_TRAINING: Final = Reason("WaitingForTraining", "There is no result to judge yet.")
ARTIFACT_PUBLISHED: Final = Reason("ArtifactPublished", "manifest.json is in the store and its digest is recorded.")
ARTIFACT_MISSING: Final = Reason("ArtifactMissing", "The manifest of a recorded version is gone from the store.")
ARTIFACT_CORRUPT: Final = Reason("ArtifactCorrupt", "A file does not have the size or sha256 that the manifest gives.")
ADOPTED: Final = Reason("Adopted", "Versions found in the store were taken over by a re-created object.")
NO_CHAMPION: Final = Reason("NoChampion", "No version serves yet.")
SERVING: Final = Reason("Serving", "A champion exists and, with a rollout, serves.")
CANDIDATE_AVAILABLE: Final = Reason(
    "CandidateAvailable", "A version passed its gates and waits for a rollout to take it up."
)
VERSION_REJECTED: Final = Reason(
    "VersionRejected", "The version for this spec failed its gates or its training; an older champion may still serve."
)
VERSION_RETIRED: Final = Reason(
    "VersionRetired", "A version beyond the retention was removed from status; its artifact follows deletionPolicy."
)
DUPLICATE_REQUEST: Final = Reason(
    "DuplicateRequest", "The request would train into an identical version; nothing was started."
)

# --- reasons: rollout ------------------------------------------------------------------------------------------------
IDLE: Final = Reason("Idle", "The champion serves; no newer candidate waits.")
INITIAL: Final = Reason(
    "Initial", "The first version becomes champion without a canary: there is nothing to compare it with."
)
WAITING_FOR_CANDIDATE: Final = Reason("WaitingForCandidate", "The model has no version that passed its gates yet.")
DEPLOYING: Final = Reason("Deploying", "The canary's pods start and are verified before any traffic.")
SHADOWING: Final = Reason("Shadowing", "The canary answers copies of requests; its answers are discarded.")
MATCHING: Final = Reason("Matching", "The canary answers requests with the declared headers.")
STEPPING: Final = Reason("Stepping", "The canary takes its step's share of traffic.")
PAUSED: Final = Reason(
    "Paused", "A step, a person or the spec asked to wait; `resume` or `promote` goes on. A Fail still rolls back."
)
AWAITING_PROMOTION: Final = Reason(
    "AwaitingPromotion", "Every step is done and promotion is Manual; `promote` goes on."
)
PROMOTING: Final = Reason("Promoting", "The canary takes all traffic and becomes the champion.")
BAKING: Final = Reason("Baking", "The new version has all traffic; the old one stays warm and a breach reverts.")
PROMOTED: Final = Reason("Promoted", "The canary became the champion.")
ROLLING_BACK: Final = Reason("RollingBack", "Traffic returns to stable.")
ROLLED_BACK: Final = Reason(
    "RolledBack",
    "Stable has all traffic again and the version is quarantined; the message gives SLI, evidence and counts.",
)
ABORTED: Final = Reason("Aborted", "A person ended the canary; stable has all traffic.")
RETRIED: Final = Reason("Retried", "A person released a version from quarantine for another try.")
SUPERSEDED: Final = Reason("Superseded", "A newer candidate took the canary's place between two steps.")
HELD: Final = Reason("Held", "The step's clock stands still: an SLI has no data or its source is down.")
NO_DATA: Final = Reason(
    "NoData", "The source answers but has no series, or too few requests, for an arm whose pods are ready."
)
SOURCE_DOWN: Final = Reason("SourceDown", "The metrics source does not answer, or answers what cannot be understood.")
SOURCE_UNKNOWN: Final = Reason(
    "SourceUnknown", "analysis.source is not configured in the operator's settings; the message lists those that are."
)
INCONCLUSIVE: Final = Reason("Inconclusive", "A step ended without enough evidence either way; onInconclusive decided.")
NO_DATA_DEADLINE: Final = Reason("NoDataDeadline", "No data for longer than onNoData.deadline; its `then` was applied.")
SOURCE_DOWN_DEADLINE: Final = Reason(
    "SourceDownDeadline", "The source was down for longer than onSourceDown.deadline; its `then` was applied."
)
ROLLOUT_DEADLINE: Final = Reason(
    "RolloutDeadline", "The canary was active for longer than strategy.deadline; onDeadline was applied."
)
COVERAGE_UNEQUAL: Final = Reason(
    "CoverageUnequal", "Labels cover the arms unequally, so a quality verdict would be biased; none is given."
)
ANALYSIS_RUNNING: Final = Reason("AnalysisRunning", "Every SLI is being judged.")
ANALYSIS_IDLE: Final = Reason("AnalysisIdle", "No canary is being judged.")
CANARY_UNHEALTHY: Final = Reason(
    "CanaryUnhealthy", "The canary's pods crash, were OOM-killed or stay unready beyond the grace."
)
CANARY_TIMEOUT: Final = Reason("CanaryTimeout", "The canary's pods were not ready and verified in time.")
DIGEST_MISMATCH: Final = Reason("DigestMismatch", "A pod serves another digest than the intended version's.")
GOLDEN_MISMATCH: Final = Reason(
    "GoldenMismatch",
    "A pod's answers to the golden inputs differ from training by more than the tolerance (failure mode F3).",
)
STABLE_UNHEALTHY: Final = Reason(
    "StableUnhealthy", "The stable version's pods are not ready; no canary is started or advanced."
)
STABLE_AVAILABLE: Final = Reason("StableAvailable", "The stable version's pods are ready.")
ROUTE_PENDING: Final = Reason("RoutePending", "The router has not accepted the latest weights yet.")
ROUTE_OBSERVED: Final = Reason(
    "RouteObserved",
    "The router accepted the weights, and per-version request counters agree or cannot tell; the message says which.",
)
TRAFFIC_DISAGREES: Final = Reason(
    "TrafficDisagrees",
    "The router accepted the weights, but per-version request counters refute them; the message has counts and remedy.",
)
ROUTE_REJECTED: Final = Reason("RouteRejected", "The router refuses the route; the message is its own.")
ROUTER_INCAPABLE: Final = Reason(
    "RouterIncapable",
    "The router cannot do a declared step (mirror, header match or weight); remove the step or change the router.",
)
REQUEST_DONE: Final = Reason("RequestDone", "A person's request was carried out.")
REQUEST_REFUSED: Final = Reason("RequestRefused", "A person's request does not apply now; the message tells why.")
VERSION_QUARANTINED: Final = Reason(
    "VersionQuarantined", "The version is never offered again unless a person retries it; artifact and evidence stay."
)
CHAMPION_RESTORED: Final = Reason(
    "ChampionRestored", "The champion's weights and pods were re-asserted, for example after a restart."
)

# --- reasons: retraining ---------------------------------------------------------------------------------------------
ACTIVE: Final = Reason("Active", "Triggers are evaluated.")
TRIGGER_FIRED: Final = Reason("TriggerFired", "A trigger fired and a request was made.")
TRIGGER_SILENT: Final = Reason("TriggerSilent", "A trigger has no data; silence is never drift.")
FROZEN: Final = Reason("Frozen", "`frozen: true` holds all requests.")
SUPPRESSION_WINDOW: Final = Reason(
    "SuppressionWindow", "A declared window holds all requests; the message gives its reason and end."
)
NOT_SUPPRESSED: Final = Reason("NotSuppressed", "Nothing holds requests back.")
COOLDOWN: Final = Reason("Cooldown", "limits.cooldown has not passed since the last request.")
DAILY_LIMIT: Final = Reason("DailyLimit", "limits.maxPerDay is reached.")
WITHIN_LIMITS: Final = Reason("WithinLimits", "A request would be made now if a trigger fired.")
FAILURES_IN_A_ROW: Final = Reason(
    "FailuresInARow", "limits.stopAfterFailures is reached; change the spec of the policy to start again."
)
WAITING_FOR_CANARY: Final = Reason("WaitingForCanary", "A canary is in flight and limits.whileCanary is Wait.")

# --- reasons: everything ---------------------------------------------------------------------------------------------
DELETING: Final = Reason(
    "Deleting", "The object is being deleted; traffic returns to stable first and artifacts follow deletionPolicy."
)
DELETION_INCOMPLETE: Final = Reason(
    "DeletionIncomplete",
    "Artifacts could not be deleted because the store did not answer; the message lists the prefixes left.",
)
RECONCILE_FAILED: Final = Reason(
    "ReconcileFailed", "A pass failed and is repeated with backoff; the message names the cause."
)
UNKNOWN: Final = Reason("Unknown", "Not observed yet.")

MODEL_CONDITIONS: Final = (SPEC_VALID, DATA_RESOLVED, TRAINED, GATES_PASSED, PUBLISHED, READY)
ROLLOUT_CONDITIONS: Final = (AVAILABLE, PROGRESSING, ANALYSIS_HEALTHY, ROUTE_ACCEPTED, READY)
RETRAIN_CONDITIONS: Final = (TRIGGERS_HEALTHY, SUPPRESSED, COOLING_DOWN, STOPPED, READY)
REASONS: Final = tuple(value for value in list(globals().values()) if isinstance(value, Reason))
"""Every reason, in the order above."""
