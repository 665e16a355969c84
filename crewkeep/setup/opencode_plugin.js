// crewkeep-hook: tells crewkeep what this agent does, and brings it what other sessions say.
// Written by `crewkeep hooks install`; `crewkeep hooks remove` takes it away. Outside of a session it does nothing.
import { spawn } from "node:child_process"
import { existsSync } from "node:fs"
import { homedir } from "node:os"
import { join } from "node:path"

const HOOK = "CREWKEEP_HOOK"

export const Crewkeep = async ({ directory, client }) => {
  if (!process.env.CREWKEEP_SESSION || !existsSync(HOOK)) return {}
  const children = new Map() // session -> whether it is another's child

  // Resolves with what the hook answers, or with nothing: whatever is wrong with crewkeep, the agent goes on.
  const tell = (event) =>
    new Promise((resolve) => {
      const hook = spawn(HOOK, ["opencode"], { stdio: ["pipe", "pipe", "ignore"] })
      let printed = ""
      const limit = setTimeout(() => hook.kill(), 10_000)
      hook.stdout.on("data", (data) => (printed += data))
      hook.stdin.on("error", () => {})
      hook.on("error", () => resolve({}))
      hook.on("close", () => {
        clearTimeout(limit)
        try {
          resolve(JSON.parse(printed).hookSpecificOutput ?? {})
        } catch {
          resolve({})
        }
      })
      hook.stdin.end(JSON.stringify(event))
    })

  const isChild = async (id) => {
    if (!children.has(id)) {
      try {
        const found = await client.session.get({ path: { id } })
        children.set(id, Boolean(found.data?.parentID))
      } catch {
        return false
      }
    }
    return children.get(id)
  }

  const make = async (name, id, more) => ({
    hook_event_name: name,
    session_id: id,
    agent_id: (await isChild(id)) ? id : undefined,
    store_path: process.env.OPENCODE_DB ?? join(process.env.XDG_DATA_HOME ?? join(homedir(), ".local", "share"), "opencode", "opencode.db"),
    cwd: directory,
    ...more,
  })

  return {
    event: async ({ event }) => {
      const { properties: told = {}, type } = event
      if (type === "session.created" && !told.info?.parentID) await tell(await make("SessionStart", told.info?.id, { source: "startup" }))
      else if (type === "session.idle") await tell(await make("Stop", told.sessionID, {}))
      else if (type === "permission.asked" || type === "permission.updated")
        await tell(await make("PermissionRequest", told.sessionID, { message: told.title ?? told.permission }))
    },
    "chat.message": async (input, output) => {
      const said = output.parts.filter((part) => part.type === "text").map((part) => part.text)
      const answer = await tell(await make("UserPromptSubmit", input.sessionID, { prompt: said.join("\n") }))
      const first = output.parts.find((part) => part.type === "text")
      if (answer.additionalContext && first) first.text += "\n\n" + answer.additionalContext
    },
    "tool.execute.before": async (input, output) => {
      const call = { tool_name: input.tool, tool_use_id: input.callID, tool_input: output.args }
      const answer = await tell(await make("PreToolUse", input.sessionID, call))
      if (answer.permissionDecision === "deny") throw new Error(answer.permissionDecisionReason)
    },
    "tool.execute.after": async (input, output) => {
      const exit = output.metadata?.exit
      const call = { tool_name: input.tool, tool_use_id: input.callID, tool_input: input.args ?? {} }
      const response = { exit_code: typeof exit === "number" ? exit : undefined }
      const answer = await tell(await make("PostToolUse", input.sessionID, { ...call, tool_response: response }))
      if (answer.additionalContext) output.output += "\n\n" + answer.additionalContext
    },
  }
}
