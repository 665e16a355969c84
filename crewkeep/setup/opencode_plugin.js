// crewkeep-hook: tells crewkeep what this agent does, and brings it what other sessions say.
// Written by `crewkeep hooks install`; `crewkeep hooks remove` takes it away. Outside of a session it does nothing.
import { spawn } from "node:child_process"
import { existsSync } from "node:fs"
import { homedir } from "node:os"
import { isAbsolute, join } from "node:path"

const HOOK = "CREWKEEP_HOOK"
const LIMIT_MS = 10_000

const findStore = () => {
  const named = process.env.OPENCODE_DB || "opencode.db"
  if (named === ":memory:") return undefined
  const data = join(process.env.XDG_DATA_HOME || join(homedir(), ".local", "share"), "opencode")
  return isAbsolute(named) ? named : join(data, named)
}

// Resolves with what the hook answers, or with nothing: whatever is wrong with crewkeep, the agent goes on.
const ask = (event) =>
  new Promise((resolve) => {
    const hook = spawn(HOOK, ["opencode"], { stdio: ["pipe", "pipe", "ignore"] })
    let printed = ""
    const limit = setTimeout(() => hook.kill("SIGKILL"), LIMIT_MS)
    hook.stdout.on("data", (data) => (printed += data))
    hook.stdin.on("error", () => {})
    const end = () => {
      clearTimeout(limit)
      try {
        resolve(JSON.parse(printed).hookSpecificOutput ?? {})
      } catch {
        resolve({})
      }
    }
    hook.on("error", end)
    hook.on("close", end)
    hook.stdin.end(JSON.stringify(event))
  })

export const Crewkeep = async ({ directory, client }) => {
  if (!process.env.CREWKEEP_SESSION || !existsSync(HOOK)) return {}
  const children = new Map() // conversation -> whether it is a helper's
  const started = new Set() // conversations whose start was told
  const said = new Map() // conversation -> what its agent said last
  const open = new Set() // tool calls that have begun
  let current // the conversation of the user's
  let queue = Promise.resolve({}) // one event after the other, in the order in which they happened

  const isChild = async (id) => {
    if (!children.has(id)) {
      try {
        const found = await client.session.get({ path: { id } })
        if (!found.data) return false
        children.set(id, Boolean(found.data.parentID))
      } catch {
        return false
      }
    }
    return children.get(id)
  }

  const tell = (name, id, more) => {
    const send = async () => {
      const helper = id !== undefined && (await isChild(id))
      if (!helper && id) current = id
      const about = { session_id: id, agent_id: helper ? id : undefined, store_path: findStore(), cwd: directory }
      return ask({ hook_event_name: name, ...about, ...more })
    }
    queue = queue.then(send).catch(() => ({}))
    return queue
  }

  const tellStart = (id, source) => {
    if (!id || started.has(id)) return
    started.add(id)
    tell("SessionStart", id, { source, takes_context: false })
  }

  return {
    // OpenCode does not wait for this one: nothing can be answered to an event.
    event: async ({ event }) => {
      const { properties: told = {}, type } = event
      const part = told.part
      if (type === "session.created" && told.info?.id) {
        children.set(told.info.id, Boolean(told.info.parentID))
        tellStart(told.info.id, "startup")
      } else if (type === "session.idle") {
        tell("Stop", told.sessionID, { last_assistant_message: said.get(told.sessionID) })
      } else if (type === "permission.asked") {
        tell("PermissionRequest", told.sessionID, { message: told.permission })
      } else if (type === "message.part.updated" && part?.type === "tool" && part.state?.status === "error") {
        if (!open.delete(part.callID)) return // a tool that fails, or is refused, ends without its hook
        const call = { tool_name: part.tool, tool_use_id: part.callID, tool_input: part.state.input ?? {} }
        tell("PostToolUseFailure", part.sessionID, { ...call, error: part.state.error, takes_context: false })
      }
    },
    dispose: async () => {
      if (current) await tell("SessionEnd", current, { reason: "exit" })
    },
    "chat.message": async (input, output) => {
      tellStart(input.sessionID, "resume")
      const texts = output.parts.filter((part) => part.type === "text" && !part.synthetic)
      const prompt = texts.map((part) => part.text).join("\n")
      const answer = await tell("UserPromptSubmit", input.sessionID, { prompt, takes_context: texts.length > 0 })
      if (answer.additionalContext && texts.length > 0) texts.at(-1).text += "\n\n" + answer.additionalContext
    },
    "experimental.text.complete": async (input, output) => {
      said.set(input.sessionID, output.text)
    },
    "tool.execute.before": async (input, output) => {
      open.add(input.callID)
      const call = { tool_name: input.tool, tool_use_id: input.callID, tool_input: output.args }
      const answer = await tell("PreToolUse", input.sessionID, call)
      if (answer.permissionDecision === "deny") throw new Error(answer.permissionDecisionReason)
    },
    "tool.execute.after": async (input, output) => {
      open.delete(input.callID)
      if (!output) return
      const exit = output.metadata?.exit
      const call = { tool_name: input.tool, tool_use_id: input.callID, tool_input: input.args ?? {} }
      const response = { exit_code: typeof exit === "number" ? exit : undefined, is_error: output.isError || undefined }
      const isText = typeof output.output === "string" // a tool of an MCP server gives a list of pieces instead
      const takes = { takes_context: isText || Array.isArray(output.content) }
      const { additionalContext } = await tell("PostToolUse", input.sessionID, { ...call, ...takes, tool_response: response })
      if (!additionalContext) return
      if (isText) output.output += "\n\n" + additionalContext
      else if (Array.isArray(output.content)) output.content.push({ type: "text", text: additionalContext })
    },
  }
}
