package proxy

import (
	"context"

	"nearsight/origin"
	"nearsight/registry"
)

// Create implements registry.Images.
func (r *Records) Create(ctx context.Context, img *registry.Image) (*registry.Image, error) {
	if img.ID != "" {
		defer r.forget(img.ID) // also after an error: the commit may have happened
	}
	created, err := r.images.Create(ctx, img)
	if err == nil {
		r.forget(created.ID)
	}
	return created, err
}

// Update implements registry.Images.
func (r *Records) Update(ctx context.Context, id string, change func(*registry.Image) error) (*registry.Image, error) {
	defer r.forget(id)
	return r.images.Update(ctx, id, change)
}

// Delete implements registry.Images.
func (r *Records) Delete(ctx context.Context, id string, check func(*registry.Image) error) error {
	defer r.forget(id)
	return r.images.Delete(ctx, id, check)
}

// Uploads returns u, with r forgetting every image that it changes before the
// change returns.
func (r *Records) Uploads(u registry.Uploads) registry.Uploads { return uploads{u, r} }

type uploads struct {
	registry.Uploads
	records *Records
}

func (u uploads) Begin(ctx context.Context, id string, loc origin.Location) (*registry.Image, error) {
	defer u.records.forget(id)
	return u.Uploads.Begin(ctx, id, loc)
}

func (u uploads) Finish(ctx context.Context, id string, loc origin.Location, sum origin.Summary) (*registry.Image, error) {
	defer u.records.forget(id)
	return u.Uploads.Finish(ctx, id, loc, sum)
}

func (u uploads) Abort(ctx context.Context, id string, loc origin.Location) error {
	defer u.records.forget(id)
	return u.Uploads.Abort(ctx, id, loc)
}

// Stages returns s, with r forgetting every image that it changes before the
// change returns.
func (r *Records) Stages(s registry.Stages) registry.Stages { return stages{s, r} }

type stages struct {
	registry.Stages
	records *Records
}

func (s stages) BeginStage(ctx context.Context, id string, loc origin.Location) (*registry.Image, error) {
	defer s.records.forget(id)
	return s.Stages.BeginStage(ctx, id, loc)
}

func (s stages) FinishStage(ctx context.Context, id string, loc origin.Location, sum origin.Summary) (*registry.Image, error) {
	defer s.records.forget(id)
	return s.Stages.FinishStage(ctx, id, loc, sum)
}

func (s stages) Adopt(ctx context.Context, id string) (*registry.Image, error) {
	defer s.records.forget(id)
	return s.Stages.Adopt(ctx, id)
}

// Tasks returns t, with r forgetting every image that begins and ends of tasks
// change before the change returns.
func (r *Records) Tasks(t registry.Tasks) registry.Tasks { return tasks{t, r} }

type tasks struct {
	registry.Tasks
	records *Records
}

func (t tasks) AddTask(ctx context.Context, task *registry.Task, begin func(*registry.Image) error) (*registry.Task, error) {
	begin, forget := t.records.forgetting(begin)
	defer forget()
	return t.Tasks.AddTask(ctx, task, begin)
}

func (t tasks) EndTask(ctx context.Context, task *registry.Task, holder string, end func(*registry.Image) error) error {
	end, forget := t.records.forgetting(end)
	defer forget()
	return t.Tasks.EndTask(ctx, task, holder, end)
}

// forgetting returns change, which may be nil, and what forgets the image that it
// got, if it got one.
func (r *Records) forgetting(change func(*registry.Image) error) (_ func(*registry.Image) error, forget func()) {
	if change == nil {
		return nil, func() {}
	}
	var id string
	return func(img *registry.Image) error {
			id = img.ID
			return change(img)
		}, func() {
			if id != "" {
				r.forget(id)
			}
		}
}
