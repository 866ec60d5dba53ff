package subscriptions

// FieldError says that an enrolment cannot be taken because of one of its fields. The API answers it with 422.
type FieldError struct {
	Field  string // as the API names it: mailbox, token, topic
	Code   string // stable, for programs: not_covered, too_many_devices
	Detail string // for people
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Detail }
