/**
 * The documents of /api, as docs/api.md describes them. Types only; nothing of this file runs.
 *
 * @typedef {"pass" | "warn" | "fail" | "unknown"} Status
 *
 * @typedef {object} RunbookRef
 * @property {string} name
 * @property {string} anchor
 *
 * @typedef {object} Check
 * @property {string} name
 * @property {Status} status
 * @property {boolean} required
 * @property {string} source "active" for a check of the relay's own, "traffic" for evidence from clients
 * @property {string | null} reason
 * @property {string | null} message
 * @property {string | null} remedy
 * @property {RunbookRef | null} runbook
 * @property {number | null} checked_seconds_ago
 * @property {number | null} passed_seconds_ago
 * @property {number | null} duration_seconds
 *
 * @typedef {object} ReasonCount
 * @property {string} reason
 * @property {number} count
 * @property {boolean} counted whether it counts against the objective
 *
 * @typedef {object} Connections
 * @property {number} seconds
 * @property {number} succeeded
 * @property {number} failed
 * @property {number | null} success_ratio
 * @property {ReasonCount[]} failures
 * @property {number} point_seconds
 * @property {number[]} succeeded_points
 * @property {number[]} failed_points
 *
 * @typedef {object} Overview
 * @property {string} service
 * @property {number} time
 * @property {string} version
 * @property {string} upstream
 * @property {number} uptime_seconds
 * @property {{status: Status, ready: boolean, stale: boolean, notes: string[], checks: Check[]}} health
 * @property {boolean} breaker_open
 * @property {Connections[]} connections
 * @property {{open: number, limit: number, by_api: Record<string, number>}} sessions
 * @property {{active: number, limit: number}} dials
 * @property {{used_bytes: number | null, limit_bytes: number | null}} memory
 * @property {{last_seconds: number | null, greatest_seconds: number | null}} event_loop_lag
 * @property {{draining: boolean, seconds_left: number | null}} drain
 * @property {number} failures_total
 * @property {boolean} doctor_running
 *
 * @typedef {object} Direction
 * @property {number} messages
 * @property {number} bytes
 * @property {boolean} held_back
 * @property {number} held_back_seconds
 *
 * @typedef {object} Session
 * @property {string} id
 * @property {string} api
 * @property {string} client
 * @property {string | null} user
 * @property {string} address
 * @property {string | null} model
 * @property {number} age_seconds
 * @property {number} last_event_seconds_ago
 * @property {string} state "open" or "ending"
 * @property {string | null} ending_as
 * @property {Direction} client_to_upstream
 * @property {Direction} upstream_to_client
 * @property {number} tokens
 * @property {number} billed_seconds
 * @property {number} cost_usd
 * @property {boolean} cost_is_complete
 * @property {number} renewals
 * @property {number} recoveries
 *
 * @typedef {{total: number, matching: number, limit: number, sessions: Session[]}} SessionList
 *
 * @typedef {object} Limit
 * @property {string} name
 * @property {number | null} used
 * @property {number} maximum
 * @property {number | null} used_ratio
 *
 * @typedef {{usd: number, tokens: number, minutes: number}} Amounts
 *
 * @typedef {object} User
 * @property {string} user
 * @property {number} sessions
 * @property {number} tokens
 * @property {number} cost_usd
 * @property {{day: Amounts, month: Amounts} | null} spent
 * @property {Limit[]} limits
 *
 * @typedef {object} Client
 * @property {string} name
 * @property {string} source "file" or "settings"
 * @property {boolean} enabled
 * @property {string | null} policy
 * @property {string[]} models
 * @property {string[]} apis
 * @property {number} sessions
 * @property {number} tokens
 * @property {number} cost_usd
 * @property {{day: Amounts, month: Amounts} | null} spent
 * @property {Limit[]} limits
 * @property {number} users_total
 * @property {User[]} users
 *
 * @typedef {{total: number, matching: number, limit: number, store: {shared: boolean, up: boolean}, clients: Client[]}} ClientList
 *
 * @typedef {object} Failure
 * @property {number} time
 * @property {string} kind
 * @property {string} reason
 * @property {string} message
 * @property {string} remedy
 * @property {string} blame
 * @property {string} retry
 * @property {RunbookRef} runbook
 * @property {string | null} phase
 * @property {number | null} upstream_status
 * @property {string | null} upstream_code
 * @property {string | null} detail
 * @property {Record<string, string>} evidence
 * @property {string} session_id
 * @property {string} client
 * @property {string} address
 * @property {string | null} model
 *
 * @typedef {{time: number, total: number, limit: number, failures: Failure[]}} FailureList
 *
 * @typedef {object} Reason
 * @property {string} reason
 * @property {string} message
 * @property {string} remedy
 * @property {string} operator_action
 * @property {string} blame
 * @property {number | null} http_status
 * @property {number | null} close_code
 * @property {number | null} event_close_code
 * @property {string} retry
 * @property {string} level
 * @property {RunbookRef} runbook
 *
 * @typedef {object} Setting
 * @property {string} name
 * @property {unknown} value
 * @property {string[]} fingerprints
 * @property {unknown} default
 * @property {string} source
 * @property {boolean} secret
 * @property {string} accepts
 * @property {string} description
 *
 * @typedef {object} Rung
 * @property {string} name
 * @property {string} status "ok", "warn", "fail" or "skipped"
 * @property {number} seconds
 * @property {string} finding
 * @property {string[]} notes
 * @property {string | null} reason
 * @property {string | null} remedy
 * @property {string | null} anchor
 *
 * @typedef {object} DoctorDocument
 * @property {string} version
 * @property {boolean} ok
 * @property {Record<string, unknown>} target
 * @property {Rung[]} rungs
 *
 * What a page of this console consists of. `list` names the document that is read every two seconds while the page is shown.
 * @typedef {object} View
 * @property {string} title
 * @property {HTMLElement} element
 * @property {(parameter: string, page: string) => void} show called with the part of the hash behind the name of the page, and that name
 * @property {() => string | null} list
 * @property {(document: any) => void} apply given the document of `list`
 * @property {(overview: Overview, problem: import("./api.js").Problem | null) => void} update given the last overview, and the problem while it is stale
 *
 * What pages share.
 * @typedef {object} Context
 * @property {number} restarts how often another process has answered
 * @property {(text: string) => void} announce to screen readers
 * @property {() => void} refresh reads overview and list now
 * @property {() => Promise<Map<string, Reason>>} catalogue
 * @property {(method: "POST" | "DELETE", path: string, seconds?: number) => Promise<any>} change changes something; asks for the operator token where the
 *   relay wants one, and raises Problem
 */
export {};
