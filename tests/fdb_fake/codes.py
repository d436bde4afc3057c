"""FoundationDB's error codes that the fake knows: their numbers, what they say, and which may be tried again."""

from __future__ import annotations

TRANSACTION_TOO_OLD = 1007
FUTURE_VERSION = 1009
NOT_COMMITTED = 1020
COMMIT_UNKNOWN_RESULT = 1021
TRANSACTION_CANCELLED = 1025
TRANSACTION_TIMED_OUT = 1031
TOO_MANY_WATCHES = 1032
WATCHES_DISABLED = 1034
ACCESSED_UNREADABLE = 1036
PROCESS_BEHIND = 1037
DATABASE_LOCKED = 1038
OPERATION_CANCELLED = 1101
FUTURE_RELEASED = 1102
CLIENT_INVALID_OPERATION = 2000
KEY_OUTSIDE_LEGAL_RANGE = 2004
INVERTED_RANGE = 2005
INVALID_OPTION_VALUE = 2006
INVALID_OPTION = 2007
NETWORK_NOT_SETUP = 2008
NETWORK_ALREADY_SETUP = 2009
READ_VERSION_ALREADY_SET = 2010
VERSION_INVALID = 2011
RANGE_LIMITS_INVALID = 2012
NO_COMMIT_VERSION = 2021
USED_DURING_COMMIT = 2017
INVALID_MUTATION_TYPE = 2018
NETWORK_CANNOT_BE_RESTARTED = 2025
TRANSACTION_TOO_LARGE = 2101
KEY_TOO_LARGE = 2102
VALUE_TOO_LARGE = 2103
CONNECTION_STRING_INVALID = 2104
UNSUPPORTED_OPERATION = 2108
SPECIAL_KEYS_WRITE_DISABLED = 2114
TENANT_NOT_FOUND = 2131
TENANT_ALREADY_EXISTS = 2132
TENANT_NOT_EMPTY = 2133
API_VERSION_NOT_SUPPORTED = 2203
EXACT_MODE_WITHOUT_LIMITS = 2210
NO_CLUSTER_FILE_FOUND = 1515

TEXTS = {
    0: "Success",
    1007: "Transaction is too old to perform reads or be committed",
    1009: "Request for future version",
    1020: "Transaction not committed due to conflict with another transaction",
    1021: "Transaction may or may not have committed",
    1025: "Operation aborted because the transaction was cancelled",
    1031: "Operation aborted because the transaction timed out",
    1032: "Too many watches currently set",
    1034: "Watches cannot be set if read your writes is disabled",
    1036: "Read or wrote an unreadable key",
    1037: "Storage process does not have recent mutations",
    1038: "Database is locked",
    1101: "Asynchronous operation cancelled",
    1102: "Future has been released",
    1515: "No cluster file found in current directory or default location",
    2000: "Invalid API call",
    2004: "Key outside legal range",
    2005: "Range begin key larger than end key",
    2006: "Option set with an invalid value",
    2007: "Option not valid in this context",
    2008: "Action not possible before the network is configured",
    2009: "Network can be configured only once",
    2010: "Transaction already has a read version set",
    2011: "Version not valid",
    2012: "Range limits not valid",
    2017: "Operation issued while a commit was outstanding",
    2018: "Unrecognized atomic mutation type",
    2021: "Transaction is read-only and therefore does not have a commit version",
    2025: "Network can only be started once",
    2101: "Transaction exceeds byte limit",
    2102: "Key length exceeds limit",
    2103: "Value length exceeds limit",
    2104: "Connection string invalid",
    2108: "Operation is not supported",
    2114: "Special Key space is not allowed to write by default",
    2131: "Tenant does not exist",
    2132: "A tenant with the given name already exists",
    2133: "Cannot delete a non-empty tenant",
    2203: "API version not supported",
    2210: "EXACT streaming mode requires limits, but none were given",
}

MAYBE_COMMITTED = {COMMIT_UNKNOWN_RESULT}
RETRYABLE_NOT_COMMITTED = {
    NOT_COMMITTED,
    TRANSACTION_TOO_OLD,
    FUTURE_VERSION,
    DATABASE_LOCKED,
    PROCESS_BEHIND,
    1042,  # commit_proxy_memory_limit_exceeded
    1051,  # batch_transaction_throttled
    1078,  # grv_proxy_memory_limit_exceeded
    1213,  # tag_throttled
    1223,  # proxy_tag_throttled
}
RETRYABLE = MAYBE_COMMITTED | RETRYABLE_NOT_COMMITTED
PREDICATES = {50000: RETRYABLE, 50001: MAYBE_COMMITTED, 50002: RETRYABLE_NOT_COMMITTED}
"""By the number of the C library's predicate: what it is true of."""


class Refusal(Exception):
    """An error of FoundationDB's, by its code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"{TEXTS.get(code, 'an error')} ({code})")
        self.code = code
