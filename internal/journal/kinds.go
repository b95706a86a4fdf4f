package journal

// Kinds are all kinds of events.
var Kinds = []Kind{
	Started, Stopping, Stopped, Dialing, Connected, Acknowledged, Lost, Renewed, Confirmed, Asking, Waiting, Assigned, AssignedAgain, StillDown,
	BacklogSent, Decision, OutboxProblem, Warning, BadLine, DesiredChange, MethodCall, CloudMessage, ClockWrong, ClockRight, Resumed, Bug, Packet,
}
